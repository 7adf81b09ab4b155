"""``stagekit compile``."""

from __future__ import annotations

from pathlib import Path

import click

from stagekit.build.compile import compile
from stagekit.build.deploy import Compiled
from stagekit.build.kit import emit_kit
from stagekit.cli.console import PATH, emit, json_option, megabytes, note, progress, table
from stagekit.errors import UsageError
from stagekit.store import Store


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=PATH)
@click.option("--target", "target_name", help="E.g. onnxruntime, openvino; see `stagekit targets`.")
@click.option(
    "--profile", "profile_name", help="A shipped profile's name or a .toml file; the target's own by default."
)
@click.option("-o", "--output", type=PATH, help="Write a .deploy folder; without it, engines go into the store alone.")
@click.option("--into", type=PATH, help="Add the tasks to this .deploy folder.")
@click.option("--calibration", type=PATH, help="The .calib folder that an int8 profile takes its ranges from.")
@click.option(
    "--emit-kit", "kit", type=PATH, help="Build nothing; write what building elsewhere needs into this folder."
)
@click.option("--outputs", type=click.Choice(["labels", "logits"]), default="labels", show_default=True)
@json_option
def command(
    bundles: tuple[Path, ...],
    target_name: str | None,
    profile_name: str | None,
    output: Path | None,
    into: Path | None,
    calibration: Path | None,
    kit: Path | None,
    outputs: str,
    as_json: bool,
) -> None:
    """Compile a .stages folder and any number of .task folders for a target.

    Stages are compiled once: a second compilation, or another task, finds them in the store.

    \b
    Examples:
      stagekit compile lite0.stages landcover.task water.task --target openvino -o lite0.deploy
      stagekit compile --into lite0.deploy roads.task
      stagekit compile lite0.stages landcover.task --profile ov-int8 --calibration lite0.calib -o lite0-int8.deploy
      stagekit compile lite0.stages landcover.task --profile trt-fp16 --emit-kit kit/
    """
    if kit is not None:
        _emit_kit(bundles, kit, target_name, profile_name, output or into, calibration, outputs, as_json)
        return
    with progress() as tell:
        compiled = compile(
            bundles,
            target=target_name,
            profile=profile_name,
            output=output,
            into=into,
            outputs="logits" if outputs == "logits" else "labels",
            calibration=calibration,
            store=Store(Store.default().root, warn=note),
            progress=tell,
        )
    emit(_data(compiled, into or output), _text(compiled, into or output), as_json)


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
        "engines": engines,
    }


def _text(compiled: Compiled, path: Path | None) -> str:
    rows = [
        (e.graph, e.digest[:12], "from the store" if e.cached else "compiled", e.seconds, megabytes(e.bytes))
        for e in compiled.engines
    ]
    built = sum(not e.cached for e in compiled.engines)
    where = f"{path}: " if path else ""
    summary = f"{where}{compiled.manifest.target}, {built} compiled, {len(rows) - built} from the store"
    return table(["graph", "engine", "", "seconds", "size"], rows) + "\n" + summary
