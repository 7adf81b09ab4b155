"""Finding targets, and the profiles that say how to compile for them.

A target is a package that registers a class under the entry-point group ``stagekit.targets``; the built-in
ones use the same door.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from stagekit.errors import TargetUnavailable, UsageError, nearest
from stagekit.target import Profile, Target

ENTRY_POINT_GROUP = "stagekit.targets"


def entries() -> dict[str, EntryPoint]:
    """All registered targets by the name users type (aliases such as ``trt`` included), unloaded."""
    return {entry.name: entry for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name)}


def get(name: str) -> Target:
    """The target of that name or alias.

    Raises:
        UsageError: no such target is registered; names the nearest.
        TargetUnavailable: its package does not import.
    """
    registered = entries()
    if name not in registered:
        raise UsageError(f"no target is called {name!r}" + nearest(name, registered), where="--target")
    try:
        target: Target = registered[name].load()()
    except (ImportError, AttributeError) as error:
        raise TargetUnavailable(f"the package of target {name!r} does not import: {error}", where=name) from error
    return target


def refusal(target: Target, profile: Profile) -> str:
    """Why nothing can be built with a profile on this machine; empty when it can, or the target does not say."""
    says = getattr(target, "refusal", None)
    return str(says(profile)) if says else ""


def shipped_profiles(name: str) -> dict[str, Path]:
    """The profiles in a target's own package, by name, without importing it."""
    import importlib.util

    registered = entries()
    if name not in registered:
        raise UsageError(f"no target is called {name!r}" + nearest(name, registered), where="--target")
    spec = importlib.util.find_spec(registered[name].module.partition(".")[0])
    if spec is None or spec.origin is None:
        return {}
    return {path.stem: path for path in sorted((Path(spec.origin).parent / "profiles").glob("*.toml"))}


def load_profile(name_or_path: str, target: str | None = None) -> Profile:
    """A shipped profile by name, or a user's own by path (anything ending in ``.toml``).

    Args:
        name_or_path: e.g. ``ort-f32`` or ``./mine.toml``.
        target: restricts the search to one target's profiles.

    Raises:
        UsageError: not found, not TOML, an unknown key or a value that makes no sense; names the nearest key.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    else:
        shipped = {k: v for name in ([target] if target else entries()) for k, v in shipped_profiles(name).items()}
        if name_or_path not in shipped:
            raise UsageError(
                f"no profile is called {name_or_path!r}" + nearest(name_or_path, shipped),
                where="--profile",
                remedy="`stagekit targets` lists the shipped ones; a path ending in .toml names your own",
            )
        path = shipped[name_or_path]
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the profile cannot be read: {error.strerror}", where=path) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the profile is not TOML: {error}", where=path) from error
    return parse_profile(data, path.stem, where=str(path))


def default_profile(target: str) -> Profile:
    """The profile a target ships as its default: the one whose file sets ``default = true``, else the first."""
    paths = shipped_profiles(target)
    if not paths:
        raise UsageError(f"the target {target!r} ships no profile", where="--profile", remedy="give one by path")
    for path in paths.values():
        if tomllib.loads(path.read_text(encoding="utf-8")).get("default"):
            return load_profile(str(path))
    return load_profile(str(next(iter(paths.values()))))


def parse_profile(data: Mapping[str, Any], name: str, where: str) -> Profile:
    """A profile from TOML data (or a deployment's manifest), checked against its target's options."""
    known = ("name", "target", "device", "precision", "batch", "options", "default")
    for key in data:
        if key not in known:
            raise UsageError(f"unknown key {key!r}" + nearest(key, known), where=where)
    if not isinstance(data.get("target"), str):
        raise UsageError("the key 'target' is missing", where=where)
    target = get(data["target"])
    precision = data.get("precision", "f32")
    if precision not in target.precisions:
        raise UsageError(
            f"precision {precision!r} is not one of {target.name}'s: {', '.join(target.precisions)}", where=where
        )
    batch = data.get("batch", [1])
    sane = isinstance(batch, list) and bool(batch) and all(type(b) is int and 1 <= b <= 1024 for b in batch)
    if not sane or sorted(set(batch)) != batch:
        raise UsageError(f"batch must be an ascending list of sizes from 1 to 1024, got {batch!r}", where=where)
    device = data.get("device", "CPU")
    if not isinstance(device, str):
        raise UsageError(f"device must be a name, got {device!r}", where=where)
    options = data.get("options", {})
    if not isinstance(options, Mapping):
        raise UsageError(f"options must be a table, [options], got {options!r}", where=where)
    for key, value in options.items():
        if key not in target.options:
            raise UsageError(f"unknown option {key!r} of {target.name}" + nearest(key, target.options), where=where)
        if type(value) is not target.options[key].type:
            raise UsageError(f"option {key!r} must be {target.options[key].type.__name__}, got {value!r}", where=where)
    return Profile(name, target.name, device, precision, tuple(batch), dict(options))
