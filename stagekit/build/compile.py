"""``stagekit compile`` as a function: names resolved, then the driver."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from stagekit import targets
from stagekit.build.deploy import Compiled, Layout, compile_bundles, compile_into
from stagekit.build.engines import Builder
from stagekit.build.place import Output
from stagekit.build.placement import choose_adapters
from stagekit.bundle import DeployManifest, read_manifest
from stagekit.errors import UsageError
from stagekit.quant.record import load as load_record
from stagekit.store import Store
from stagekit.store.lock import held
from stagekit.target import Profile, Progress, silent

LOCK = ".lock"
"""A file in a deployment's folder, there while tasks are being added: processes that add to one deployment take turns,
since each would write down its own tasks alone."""


def compile(
    bundles: Sequence[str | PathLike[str]],
    *,
    target: str | None = None,
    profile: str | None = None,
    output: str | PathLike[str] | None = None,
    into: str | PathLike[str] | None = None,
    outputs: Output = "labels",
    calibration: str | PathLike[str] | None = None,
    adapter_target: str | None = None,
    adapter_profile: str | None = None,
    fuse: bool = False,
    replan: bool = False,
    int8_adapters: bool = False,
    store: Store | None = None,
    progress: Progress = silent,
) -> Compiled:
    """Compiles a ``.stages`` folder and any number of ``.task`` folders; what is in the store is not built again.

    Args:
        bundles: the stages first, then tasks; with ``into`` tasks alone.
        target: a target's name or alias, whose default profile is used when ``profile`` is not given.
        profile: a shipped profile's name, or a path ending in ``.toml``.
        output: the ``.deploy`` folder to write; without it engines go into the store alone.
        into: the ``.deploy`` folder to add tasks to.
        outputs: what heads give: label maps in the frame's size, or logits.
        calibration: the ``.calib`` folder that an int8 profile takes its ranges from.
        adapter_target: the target of SPMs and heads, where that is to be another; ``auto`` measures which of
            those here makes the most of both. A target that leaves float graphs to another names it itself.
        adapter_profile: likewise its profile.
        fuse: adds an engine for each run of stages between which no task prompts or reads.
        replan: measures the forms of the boundaries again.
        int8_adapters: SPMs and heads compute in int8 too; the record must have seen the tasks.
        store: :meth:`Store.default` if not given.

    Raises:
        UsageError: options that contradict each other, or unknown names.
        VerificationFailed: a task does not fit the calibrated ranges.
        BundleError, CompileError, StoreError, TargetUnavailable: see :mod:`stagekit.build.deploy`.
    """
    paths = [Path(b) for b in bundles]
    store = store or Store.default()
    record = load_record(Path(calibration)) if calibration else None
    if into is not None:
        if target or profile or output or adapter_target or adapter_profile or fuse or replan:
            raise UsageError("--into keeps the deployment's own targets, profiles and plan", where=into)
        manifest = read_manifest(Path(into), DeployManifest)
        kept = targets.parse_profile(manifest.profile, str(manifest.profile.get("name", "")), str(into))
        builder = Builder(targets.get(kept.target), kept, store, progress)
        others = _adapters(manifest, store, progress, into)
        remedy = "a deployment that tasks are added to must be writable"
        with held(Path(into) / LOCK, lambda pid: progress(_waiting(pid, into)), remedy=remedy):
            return compile_into(Path(into), paths, builder, outputs, record, others, int8_adapters)
    chosen = resolve_profile(target, profile)
    builder = Builder(targets.get(chosen.target), chosen, store, progress)
    adapters: Builder | None = None
    if adapter_target is None and adapter_profile is None:
        adapter_target = getattr(builder.target, "adapter_target", None)
    if adapter_target == "auto":
        adapters = choose_adapters(paths[0], paths[1:], builder)
    elif adapter_target or adapter_profile:
        other = resolve_profile(adapter_target, adapter_profile)
        adapters = Builder(targets.get(other.target), other, store, progress)
    layout = Layout(adapters, fuse, replan, int8_adapters)
    return compile_bundles(paths[0], paths[1:], builder, Path(output) if output else None, outputs, record, layout)


def _waiting(pid: str, deployment: str | PathLike[str]) -> str:
    return f"waiting for process {pid}, which is adding to {deployment}"


def _adapters(manifest: DeployManifest, store: Store, progress: Progress, into: str | PathLike[str]) -> Builder | None:
    """The builder of a deployment's SPMs and heads, where they have a device of their own."""
    if manifest.adapters is None:
        return None
    kept = targets.parse_profile(manifest.adapters.profile, str(manifest.adapters.profile.get("name", "")), str(into))
    return Builder(targets.get(kept.target), kept, store, progress)


def resolve_profile(target: str | None, profile: str | None) -> Profile:
    """The profile that the two names mean together.

    Raises:
        UsageError: neither is given, one is unknown, or they disagree.
    """
    if profile is not None:
        chosen = targets.load_profile(profile)
        if target is not None and targets.get(target).name != chosen.target:
            raise UsageError(f"the profile is for {chosen.target}, --target says {target}", where=profile)
        return chosen
    if target is None:
        raise UsageError("give --target or --profile", remedy="`stagekit targets` lists both")
    return targets.default_profile(target)
