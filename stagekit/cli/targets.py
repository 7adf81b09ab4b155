"""``stagekit targets``."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import click

from stagekit.cli.console import emit, json_option, table
from stagekit.errors import StagekitError

if TYPE_CHECKING:
    from stagekit.target import Target


@click.command()
@json_option
def command(as_json: bool) -> None:
    """What this machine can compile for and run on, with each target's profiles.

    A target that is not available says why, and what to install.

    \b
    Example:
      stagekit targets
    """
    from stagekit import targets

    names: dict[str, list[str]] = {}
    for entry in targets.entries().values():
        names.setdefault(entry.value, []).append(entry.name)
    rows = [_describe(*same) for same in names.values()]
    emit({"targets": rows}, _text(rows), as_json)


def _describe(name: str, *aliases: str) -> dict[str, Any]:
    from stagekit import targets

    profiles = list(targets.shipped_profiles(name))
    try:
        target = targets.get(name)
        found = target.probe()
    except StagekitError as error:
        none = {"build": False, "run": False, "reason": error.what, "remedy": error.remedy or ""}
        return {"name": name, "aliases": list(aliases), **none}
    return {
        "name": name,
        "aliases": list(aliases),
        "build": found.build,
        "run": found.run,
        "version": found.version,
        "devices": list(found.devices),
        "precisions": list(target.precisions),
        "profiles": profiles,
        "refused": _refused(name, profiles, target) if found.build else {},
        "options": {k: o.help for k, o in target.options.items()},
        "reason": found.reason,
        "remedy": found.remedy,
    }


def _refused(name: str, profiles: Sequence[str], target: Target) -> dict[str, str]:
    """Shipped profiles that this machine cannot serve, and why."""
    from stagekit import targets

    why = {profile: targets.refusal(target, targets.load_profile(profile, name)) for profile in profiles}
    return {profile: reason for profile, reason in why.items() if reason}


def _text(rows: list[dict[str, Any]]) -> str:
    shown = [
        (
            r["name"] + "".join(f" ({alias})" for alias in r["aliases"]),
            "yes" if r["build"] else "no",
            "yes" if r["run"] else "no",
            r.get("version", ""),
            ", ".join(r.get("devices", ())),
        )
        for r in rows
    ]
    lines = [table(["target", "compile", "run", "version", "devices"], shown), "\nprofiles"]
    for r in rows:
        served = [profile for profile in r.get("profiles", ()) if profile not in r.get("refused", ())]
        lines.append(
            fill(
                f"{r['name']}: {', '.join(served) or '-'}",
                80,
                initial_indent="  ",
                subsequent_indent=" " * 4,
                break_on_hyphens=False,
            )
        )
    for r in rows:
        lines += [f"\n{profile} is not for this machine: {why}" for profile, why in r.get("refused", {}).items()]
        if r["reason"]:
            lines.append(f"\n{r['name']}: {r['reason']}" + (f"\n  -> {r['remedy']}" if r["remedy"] else ""))
    return "\n".join(lines)
