"""``stagekit compile``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stagekit.cli.console import PATH, emit, json_option, megabytes, note, progress, stoppable, table
from stagekit.errors import UsageError

if TYPE_CHECKING:
    from stagekit.build.deploy import Compiled
    from stagekit.bundle import PlannedBoundary
    from stagekit.graph.spec import TensorSpec


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=PATH)
@click.option("--target", "target_name", help="E.g. onnxruntime, openvino; see `stagekit targets`.")
@click.option(
    "--profile", "profile_name", help="A shipped profile's name or a .toml file; the target's own by default."
)
@click.option("-o", "--output", type=PATH, help="Write a .deploy folder; without it, engines go into the store alone.")
@click.option("--into", type=PATH, help="Add the tasks to this .deploy folder.")
@click.option("--calibration", type=PATH, help="The .calib folder that an int8 profile takes its ranges from.")
@click.option("--adapter-target", help="Run SPMs and heads on this target; `auto` measures which pays.")
@click.option("--adapter-profile", help="Its profile.")
@click.option("--int8-adapters", is_flag=True, help="SPMs and heads in int8 too, with the record's ranges.")
@click.option("--fuse", is_flag=True, help="Add an engine for each run of stages that no task needs anything between.")
@click.option("--replan", is_flag=True, help="Measure again in which form tensors cross the boundaries.")
@click.option(
    "--emit-kit", "kit", type=PATH, help="Build nothing; write what building elsewhere needs into this folder."
)
@click.option(
    "--outputs", type=click.Choice(["labels", "logits"]), default="labels", show_default=True, help="What heads give."
)
@json_option
def command(
    bundles: tuple[Path, ...],
    target_name: str | None,
    profile_name: str | None,
    output: Path | None,
    into: Path | None,
    calibration: Path | None,
    adapter_target: str | None,
    adapter_profile: str | None,
    int8_adapters: bool,
    fuse: bool,
    replan: bool,
    kit: Path | None,
    outputs: str,
    as_json: bool,
) -> None:
    """Compile a .stages folder and any number of .task folders for a target.

    Stages are compiled once: a second compilation, or another task, finds them in the store.

    \b
    Examples:
      stagekit compile lite0.stages landcover.task sea.task \\
        --target openvino -o lite0.deploy
      stagekit compile --into lite0.deploy roads.task
      stagekit compile lite0.stages sea.task --profile ov-int8 \\
        --calibration lite0.calib -o lite0-int8.deploy
      stagekit compile lite0.stages sea.task --profile trt-fp16 --emit-kit kit/
    """
    if kit is not None:
        _emit_kit(bundles, kit, target_name, profile_name, output or into, calibration, outputs, as_json)
        return
    from stagekit.build.compile import compile
    from stagekit.store import Store

    left = "engines compiled so far are in the store, and the same command goes on from there"
    with stoppable(lambda: left), progress() as tell:
        compiled = compile(
            bundles,
            target=target_name,
            profile=profile_name,
            output=output,
            into=into,
            outputs="logits" if outputs == "logits" else "labels",
            calibration=calibration,
            adapter_target=adapter_target,
            adapter_profile=adapter_profile,
            fuse=fuse,
            replan=replan,
            int8_adapters=int8_adapters,
            store=Store(Store.default().root, warn=note),
            progress=tell,
        )
    emit(_data(compiled, into or output), _text(compiled, into or output, planned=into is None), as_json)


def _emit_kit(
    bundles: tuple[Path, ...],
    kit: Path,
    target: str | None,
    profile: str | None,
    deployment: Path | None,
    calibration: Path | None,
    outputs: str,
    as_json: bool,
) -> None:
    from stagekit.build.kit import emit_kit

    if deployment is not None:
        raise UsageError("a kit has no engines yet, so there is no deployment to write", where="--emit-kit")
    with progress() as tell:
        names = emit_kit(
            bundles,
            kit,
            target=target,
            profile=profile,
            outputs="logits" if outputs == "logits" else "labels",
            calibration=calibration,
            progress=tell,
        )
    emit({"kit": str(kit), "graphs": names}, f"{kit}: {len(names)} graphs to build; README.md says how", as_json)


def _data(compiled: Compiled, path: Path | None) -> dict[str, object]:
    engines = [
        {
            "graph": e.graph,
            "fingerprint": e.fingerprint,
            "digest": e.digest,
            "cached": e.cached,
            "seconds": e.seconds,
            "bytes": e.bytes,
        }
        for e in compiled.engines
    ]
    manifest = compiled.manifest
    return {
        "path": str(path) if path else None,
        "target": manifest.target,
        "profile": manifest.profile["name"],
        "toolchain": manifest.toolchain,
        "device": manifest.device,
        "adapters": manifest.adapters and manifest.adapters.target,
        "fused": [f"{run.first}-{run.last}" for run in manifest.fused],
        "plan": [_planned(boundary) for boundary in manifest.plan],
        "engines": engines,
    }


def _planned(boundary: PlannedBoundary) -> dict[str, object]:
    """A boundary's form, and what those that were tried cost."""
    tried = [{"form": form_text(f.tensors), "ms": f.milliseconds} for f in boundary.tried]
    return {"boundary": boundary.boundary, "form": form_text(boundary.chosen), "tried": tried}


def form_text(tensors: Sequence[TensorSpec]) -> str:
    """``bfloat16 NHWC``; several tensors with a comma between them."""
    return ", ".join(f"{t.dtype} {t.layout}".strip() for t in tensors)


def _text(compiled: Compiled, path: Path | None, planned: bool) -> str:
    rows = [
        (e.graph, e.digest[:12], "from the store" if e.cached else "compiled", e.seconds, megabytes(e.bytes))
        for e in compiled.engines
    ]
    built = sum(not e.cached for e in compiled.engines)
    where = f"{path}: " if path else ""
    summary = f"{where}{compiled.manifest.target}, {built} compiled, {len(rows) - built} from the store"
    text = table(["graph", "engine", "", "seconds", "size"], rows)
    measured = [
        (b.boundary, form_text(b.chosen), "  ".join(f"{form_text(f.tensors)} {f.milliseconds:.2f}" for f in b.tried))
        for b in compiled.manifest.plan
        if b.tried and planned
    ]
    if measured:
        text += "\n\n" + table(["boundary", "crosses as", "tried (ms of both stages)"], measured) + "\n"
    return text + "\n" + summary
