"""Eight tasks over one backbone on one stream: what sharing saves, and how much of it the runtime gets.

Rows: model, size, target, profile, prompted_from, tasks, frames_per_second, fraction_of_limit (of what the same
engines give when each distinct call is made once in a bare loop), speedup (over as many uncut models one after
the other), rss_mb and rss_uncut_mb (growth when opened), adapter_share (of the backbone's MACs, each task),
add_seconds (to compile and add a ninth task to the running session).

    python benchmarks/multi_task.py --stages resnet50.stages --profile ort-f32 --json out.json
    python benchmarks/multi_task.py --case efficientnet_lite0 224x224 --rounds 20

Tasks are made for the occasion with random weights: SPMs from the given boundary on (the stem is 0, which here
stands for the head alone), a light head over the last.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from joined import joined
from soak import resident
from stagekit_calib.chain import open_chain
from staging_tax import partitioned, ratio, turns
from uncut import configurations

from stagekit.build.compile import compile
from stagekit.bundle import ClassEntry, StagesManifest, TaskManifest, read_manifest
from stagekit.cpu import instruction_sets
from stagekit.runtime.lanes import direct
from stagekit.runtime.opening import Deployment
from stagekit.session import Session
from stagekit.store import Store
from stagekit.target import HostBuffer
from stagekit.targets import load_profile

PATH = click.Path(path_type=Path)
TASKS, CLASSES = 8, 5


@click.command()
@click.option("--case", nargs=2, metavar="MODEL HxW")
@click.option("--stages", type=PATH)
@click.option("--profile", "profiles", multiple=True, default=["ort-f32"], show_default=True)
@click.option(
    "--from", "starts", multiple=True, type=int, default=[3, 4, 0], show_default=True, help="First boundary prompted."
)
@click.option("--rounds", default=15, show_default=True)
@click.option("--tasks", default=TASKS, show_default=True)
@click.option("--json", "path", type=PATH, help="Write the rows here.")
def main(
    case: tuple[str, str] | None,
    stages: Path | None,
    profiles: tuple[str, ...],
    starts: tuple[int, ...],
    rounds: int,
    tasks: int,
    path: Path | None,
) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = stages or partitioned(*(case or ("efficientnet_lite0", "224x224")), folder)
        for start in starts:
            made = [task(bundle, folder / f"from{start}-{n}.task", f"t{n}", start, n) for n in range(tasks + 1)]
            for name in profiles:
                rows.append(measure(bundle, made, start, name, rounds, folder))
                click.echo(json.dumps(rows[-1]), err=True)
    text = json.dumps({"device": instruction_sets(), "rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def task(bundle: Path, destination: Path, name: str, start: int, seed: int) -> Path:
    """A task of real size with random weights, prompted at every boundary from ``start`` on (0: at none)."""
    import torch

    from stagekit.models.heads import create_head
    from stagekit.models.presets import create_spms
    from stagekit.models.prompted import PromptedNetwork
    from stagekit.models.registry import create
    from stagekit.partition.task import write_task

    manifest = read_manifest(bundle, StagesManifest)
    torch.manual_seed(seed)
    architecture = dict(manifest.backbone.architecture)
    backbone = create(str(architecture["name"]))
    known = {info.name: info for info in backbone.boundaries}
    infos = [known[s.boundary.name] for s in manifest.stages]
    prompted = infos[start:-1] if start else []
    prior = torch.full((CLASSES,), 1 / CLASSES)
    spms = create_spms(prompted, CLASSES, prior, "small") if prompted else {}
    network = PromptedNetwork(backbone, spms, create_head("light", [infos[-1]], CLASSES)).eval()
    classes = [ClassEntry(name=f"class {i}", color=(40 * i, 200 - 40 * i, 90)) for i in range(CLASSES)]
    write_task(network, destination, name=name, backbone=manifest.backbone.id, classes=classes, prior=prior.tolist())
    return destination


def measure(bundle: Path, tasks: Sequence[Path], start: int, name: str, rounds: int, folder: Path) -> dict[str, Any]:
    profile, store = load_profile(name), Store(folder / "store")
    destination = folder / f"{name}-{start}.deploy"
    compile([bundle, *tasks[:-1]], profile=name, output=destination, store=store)
    before = resident()
    session = Session(destination)
    frame = session.manifest.frame
    image = np.random.default_rng(0).integers(0, 256, (frame.height, frame.width, 3), dtype=np.uint8)
    session.run(image)
    memory = resident() - before
    limit = distinct_calls(session, destination, image)
    before = resident()
    uncut = uncut_models(bundle, tasks[:-1], profile, image, folder)
    for run in uncut:
        run()
    uncut_memory = resident() - before
    times = turns(
        {"session": lambda: session.run(image), "limit": limit, "uncut": lambda: [run() for run in uncut]}, rounds
    )
    begun = time.perf_counter()
    compile([tasks[-1]], into=destination, store=store)
    session.add_task(f"t{len(tasks) - 1}")
    added = time.perf_counter() - begun
    session.close()
    facts = read_manifest(tasks[0], TaskManifest)
    adapters = facts.head.macs + sum(p.macs for p in facts.prompts)
    backbone = sum(s.macs for s in read_manifest(bundle, StagesManifest).stages)
    return {
        "model": read_manifest(bundle, StagesManifest).name,
        "size": f"{frame.height}x{frame.width}",
        "target": profile.target,
        "profile": name,
        "prompted_from": start or "head only",
        "tasks": len(tasks) - 1,
        "frames_per_second": round(1 / median(times["session"]), 2),
        "fraction_of_limit": round(1 / ratio(times["session"], times["limit"]), 3),
        "speedup": round(ratio(times["uncut"], times["session"]), 2),
        "rss_mb": round(memory / 1e6, 1),
        "rss_uncut_mb": round(uncut_memory / 1e6, 1),
        "adapter_share": round(adapters / backbone, 4),
        "add_seconds": round(added, 2),
    }


def distinct_calls(session: Session, path: Path, image: Any) -> Callable[[], None]:
    """All distinct calls of all tasks for one frame, each made once, with nothing around them."""
    deployment = Deployment(path)
    frame = deployment.manifest.frame
    buffer = HostBuffer(frame.spec.bind(batch=1), image[None])
    lanes: dict[str, Any] = {}
    order: list[tuple[Any, tuple[tuple[int, int], ...]]] = []
    place: dict[Any, int] = {}
    for deployed in deployment.tasks():
        program = deployment.program(deployed, deployment.tasks())
        mine: list[int] = []
        for call in program.calls:
            inputs = tuple((-1 if r.call < 0 else mine[r.call], r.output) for r in call.inputs)
            key = (call.engine, inputs)
            if key not in place:
                place[key] = len(order)
                if call.engine not in lanes:
                    lanes[call.engine] = direct(deployment.open(call.engine))
                order.append((lanes[call.engine], inputs))
            mine.append(place[key])

    def run() -> None:
        values: list[Any] = []
        for call, inputs in order:
            values.append(call([buffer if i < 0 else values[i][output] for i, output in inputs], 1))

    return run


def uncut_models(bundle: Path, tasks: Sequence[Path], profile: Any, image: Any, folder: Path) -> list[Any]:
    """Each task with its backbone as one graph, in the vendor's API; the last configuration shares cores best."""
    opened = []
    for number, path in enumerate(tasks):
        home = folder / f"uncut{number}"
        home.mkdir(exist_ok=True)
        opened.append(list(configurations(joined(open_chain(bundle, [path])), profile, image[None], home).values())[-1])
    return opened


if __name__ == "__main__":
    main()
