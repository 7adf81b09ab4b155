"""``stagekit compile``."""

from __future__ import annotations

from pathlib import Path

import click

from stagekit import target as targets
from stagekit.build.deploy import Compiled, compile_bundles, compile_into
from stagekit.build.engines import Builder
from stagekit.build.place import Output
from stagekit.bundle import DeployManifest, read_manifest
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
@click.option("--outputs", type=click.Choice(["labels", "logits"]), default="labels", show_default=True)
@json_option
def command(
    bundles: tuple[Path, ...],
    target_name: str | None,
    profile_name: str | None,
    output: Path | None,
    into: Path | None,
    outputs: str,
    as_json: bool,
) -> None:
    """Compile a .stages folder and any number of .task folders for a target.

    Stages are compiled once: a second compilation, or another task, finds them in the store.

    \b
    Examples:
      stagekit compile lite0.stages landcover.task water.task --target openvino -o lite0.deploy
      stagekit compile --into lite0.deploy roads.task
    """
    store = Store.default()
    form: Output = "logits" if outputs == "logits" else "labels"
    with progress() as tell:
        store = Store(store.root, warn=note)
        if into is not None:
            if target_name or profile_name or output:
                raise UsageError("--into keeps the deployment's own target and profile", where=into)
            manifest = read_manifest(into, DeployManifest)
            profile = targets.parse_profile(manifest.profile, str(manifest.profile.get("name", "")), str(into))
            compiled = compile_into(into, bundles, Builder(targets.get(profile.target), profile, store, tell), form)
        else:
            profile = _profile(target_name, profile_name)
            builder = Builder(targets.get(profile.target), profile, store, tell)
            compiled = compile_bundles(bundles[0], bundles[1:], builder, output, form)
    emit(_data(compiled, into or output), _text(compiled, into or output), as_json)


def _profile(target_name: str | None, profile_name: str | None) -> targets.Profile:
    if profile_name is not None:
        profile = targets.load_profile(profile_name)
        if target_name is not None and targets.get(target_name).name != profile.target:
            raise UsageError(f"the profile is for {profile.target}, --target says {target_name}", where=profile_name)
        return profile
    if target_name is None:
        raise UsageError("give --target or --profile", remedy="`stagekit targets` lists both")
    return targets.default_profile(target_name)


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
