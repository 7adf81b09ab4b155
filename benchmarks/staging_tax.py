"""What cutting costs: the chain of stages through the runtime, against the uncut graph on the vendor's own API.

Rows: model, size, target, precision, profile, prompted, us_per_call (of the chain), uncut_us, uncut (the
configuration that won), ratio (median over rounds in which all take their turn), bare_ratio (the same engines
called one after the other without the runtime), boundaries (the planned forms).

    python benchmarks/staging_tax.py --case resnet50 224x224 --profile ort-f32 --json out.json
    python benchmarks/staging_tax.py --stages lite0.stages --task land.task --profile ov-bf16

A ``--case`` is partitioned with seeded random weights. An int8 profile is calibrated on noise: only time counts.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from stagekit_openvino.layout import with_free_transposes
from uncut import configurations

from stagekit.build.deploy import compile_bundles, stage_graphs
from stagekit.build.engines import Builder
from stagekit.bundle import DeployManifest, StagesManifest, read_manifest
from stagekit.cli.console import parse_size
from stagekit.cpu import instruction_sets
from stagekit.graph import Graph
from stagekit.graph.edges import with_edges
from stagekit.graph.join import join
from stagekit.graph.spec import BLOCKED
from stagekit.quant.record import Calibration
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.runtime.driver import Driver
from stagekit.runtime.lanes import direct
from stagekit.runtime.opening import Place
from stagekit.runtime.program import Call, Program, Ref, task_program
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.work import Frame, Request
from stagekit.store import Store
from stagekit.target import HostBuffer, Profile
from stagekit.targets import get, load_profile

PATH = click.Path(path_type=Path)
PAUSE = 0.005


@click.command()
@click.option("--case", "cases", multiple=True, nargs=2, metavar="MODEL HxW")
@click.option("--stages", "bundles", multiple=True, type=PATH)
@click.option("--task", type=PATH, help="A .task of the last --stages: the prompted network is measured as well.")
@click.option("--profile", "profiles", multiple=True, default=["ort-f32", "ov-f32", "ov-bf16"], show_default=True)
@click.option("--rounds", default=30, show_default=True)
@click.option("--cpu-time", is_flag=True, help="Processor time: on a machine that others use, and with one thread.")
@click.option("--replan", is_flag=True, help="Measure the forms of the boundaries again.")
@click.option("--store", "store_path", type=PATH, help="Where engines and plans are kept; a temporary folder.")
@click.option("--json", "path", type=PATH, help="Write the rows here.")
def main(
    cases: tuple[tuple[str, str], ...],
    bundles: tuple[Path, ...],
    task: Path | None,
    profiles: tuple[str, ...],
    rounds: int,
    cpu_time: bool,
    replan: bool,
    store_path: Path | None,
    path: Path | None,
) -> None:
    rows: list[dict[str, Any]] = []
    clock = time.process_time if cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = Store(store_path or folder / "store")
        made = [partitioned(model, size, folder) for model, size in cases]
        for stages in [*made, *bundles]:
            for name in profiles:
                rows.append(measure(stages, None, load_profile(name), rounds, store, folder, replan, clock))
                if task is not None and stages == bundles[-1]:
                    rows.append(measure(stages, task, load_profile(name), rounds, store, folder, False, clock))
                click.echo(json.dumps(rows[-1]), err=True)
    text = json.dumps({"device": instruction_sets(), "rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def partitioned(model: str, size: str, folder: Path) -> Path:
    from stagekit.partition.partition import partition_backbone

    destination = folder / f"{model}-{size}.stages"
    partition_backbone(model, destination, size=parse_size(size))
    return destination


def measure(
    stages: Path,
    task: Path | None,
    profile: Profile,
    rounds: int,
    store: Store,
    folder: Path,
    replan: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    from stagekit.build.deploy import Layout

    bundle = read_manifest(stages, StagesManifest)
    builder = Builder(get(profile.target), profile, store)
    record = noise_record(stages, task) if profile.precision == "int8" else None
    compiled = compile_bundles(
        stages, [task] if task else [], builder, folder / "x.deploy", calibration=record, layout=Layout(replan=replan)
    )
    manifest = compiled.manifest
    spec = bundle.frame.spec.bind(batch=1)
    pixels = np.random.default_rng(0).integers(0, 256, spec.concrete(), dtype=np.uint8)
    frame = HostBuffer(spec, pixels)
    place = Place.of(builder.target, profile)
    driver = Driver(Scheduler({place.name: place.in_flight}), ordered=[place.name] * place.ordered)
    made = task_program(manifest.tasks[0], manifest.stages) if task else chain(manifest)
    driver.add(made, lambda digest: (opened(builder, folder / "x.deploy", digest), place.name))
    runs: dict[str, Callable[[], Any]] = {
        "chain": lambda: through(driver, made.task, frame),
        "bare": bare(driver, made, frame),
        **uncut_runs(whole(stages, task, bundle, builder, record), manifest, task is None, profile, pixels, folder),
    }
    times = turns(runs, rounds, clock)
    driver.close()
    uncut = min((n for n in runs if n not in ("chain", "bare")), key=lambda n: median(times[n]))
    return {
        "model": bundle.name,
        "size": f"{bundle.frame.height}x{bundle.frame.width}",
        "target": profile.target,
        "precision": profile.precision,
        "profile": profile.name,
        "prompted": task is not None,
        "us_per_call": round(1e6 * median(times["chain"]), 1),
        "uncut_us": round(1e6 * median(times[uncut]), 1),
        "uncut": uncut,
        "ratio": round(ratio(times["chain"], times[uncut]), 3),
        "bare_ratio": round(ratio(times["bare"], times[uncut]), 3),
        "boundaries": [",".join(f"{t.dtype} {t.layout}" for t in b.chosen) for b in manifest.plan],
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def turns(
    runs: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each, round by round.

    The order within a round is drawn, since whoever follows the same engines finds their weights in the cache;
    and before each there is a pause, in which the threads of the one before stop spinning for work.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    random = np.random.default_rng(0)
    for _ in range(rounds + 2):
        for name in random.permutation(list(runs)):
            time.sleep(PAUSE)
            begun = clock()
            runs[name]()
            times[name].append(clock() - begun)
    return {name: spent[2:] for name, spent in times.items()}


def whole(
    stages: Path, task: Path | None, bundle: StagesManifest, builder: Builder, record: Calibration | None
) -> Graph:
    """The same network as one graph."""
    if task is None:
        return join([graph for _, graph in stage_graphs(stages, bundle, builder, record)[0]])
    from joined import joined
    from stagekit_calib.chain import open_chain

    chain = open_chain(stages, [task])
    if record is None:
        return joined(chain)
    return joined(chain.quantised(quantise_stages(chain.stages, record, scheme_of(builder.profile))))


def uncut_runs(
    graph: Graph, manifest: DeployManifest, to_boundary: bool, profile: Profile, pixels: Any, folder: Path
) -> dict[str, Callable[[], Any]]:
    """The uncut graph in each configuration; one that ends in a boundary also with that in the form of the chain's."""
    runs = configurations(graph, profile, pixels, folder)
    (wanted, *others) = manifest.plan[-1].chosen
    formed = (wanted.dtype, wanted.layout) != (graph.outputs[0].dtype, graph.outputs[0].layout)
    if to_boundary and formed and not others and wanted.layout != BLOCKED:
        shaped = with_free_transposes(with_edges(graph, graph.inputs, [wanted.renamed(graph.outputs[0].name)]))
        runs |= {
            f"{name}, {wanted.layout}": run for name, run in configurations(shaped, profile, pixels, folder).items()
        }
    return runs


def noise_record(stages: Path, task: Path | None) -> Calibration:
    from stagekit_calib.chain import open_chain
    from stagekit_calib.readers import from_iterable
    from stagekit_calib.run import calibrate

    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(4)]
    return calibrate(open_chain(stages, [task] if task else []), from_iterable(images))


def chain(manifest: DeployManifest) -> Program:
    """All stages, one after the other."""
    calls: list[Call] = []
    values: tuple[Ref, ...] = (Ref(-1),)
    for stage in manifest.stages:
        calls.append(Call(stage.engine, values, stage.name))
        values = tuple(Ref(len(calls) - 1, i) for i in range(len(stage.boundary.tensors)))
    return Program("chain", tuple(calls), values[0])


def opened(builder: Builder, deployment: Path, digest: str) -> Any:
    from stagekit.store import load_entry

    return builder.target.load(load_entry(deployment / "engines" / digest, digest), builder.profile)


numbers = iter(range(1 << 60))


def through(driver: Driver, task: str, frame: HostBuffer) -> Any:
    """One request, waited for."""
    answer: Future[Request] = Future()
    driver.submit(Frame(f"f{next(numbers)}", frame), [task], answer.set_result, waits=True)
    (outcome,) = answer.result().outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def bare(driver: Driver, made: Program, frame: HostBuffer) -> Callable[[], Any]:
    """The program's engines called one after the other, nothing else."""
    calls = [(direct(driver.engines[call.engine]), call.inputs) for call in made.calls]

    def run() -> Any:
        values: list[tuple[Any, ...]] = []
        for call, inputs in calls:
            values.append(call([frame if r.call < 0 else values[r.call][r.output] for r in inputs], 1))
        return values[-1]

    return run


if __name__ == "__main__":
    main()
