"""Recipes from TOML: overrides, relative paths, and all mistakes told at once."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stagekit.errors import UsageError
from stagekit.tune.recipe import Recipe
from stagekit.tune.sections import Section

_PATHS = (
    ("data", "folder"),
    ("backbone", "weights"),
    ("backbone", "stages"),
    ("through", "record"),
    ("through", "stages"),
)
"""Keys whose values are relative to the recipe's file."""


def read_recipe(
    path: str | PathLike[str], overrides: Iterable[str] = (), data: str | PathLike[str] | None = None
) -> Recipe:
    """The recipe in a TOML file.

    Args:
        path: of the file.
        overrides: ``section.key=value`` each, the value as TOML writes it (quotes may be left out).
        data: the data set's folder, instead of the recipe's.

    Raises:
        UsageError: it cannot be read, or lists every unknown key (with the nearest known one) and wrong value.
    """
    file = Path(path)
    try:
        stated = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the recipe cannot be read ({error.strerror})", where=path) from error
    except ValueError as error:  # TOML or UTF-8
        raise UsageError(f"the recipe is not TOML: {error}", where=path) from error
    for override in overrides:
        _set(stated, override)
    if data is not None:
        stated.setdefault("data", {})["folder"] = str(Path(data).absolute())
    for section, key in _PATHS:
        value = stated.get(section, {}).get(key) if isinstance(stated.get(section), dict) else None
        if isinstance(value, str) and value != "packaged":
            stated[section][key] = str(file.parent / value)
    return parse_recipe(stated, where=file)


def parse_recipe(stated: Mapping[str, Any], where: str | PathLike[str] = "recipe") -> Recipe:
    """The recipe of a dictionary.

    Raises:
        UsageError: as for :func:`read_recipe`.
    """
    try:
        return Recipe.model_validate(stated)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(entry["type"], entry["loc"], entry["msg"]) for entry in error.errors())
        raise UsageError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:" + "".join(f"\n  - {p}" for p in problems),
            where=where,
        ) from error


def _problem(kind: str, place: Sequence[int | str], message: str) -> str:
    """One line for one of pydantic's errors."""
    # Past the key stand the alternatives of its type, which say nothing to who wrote the recipe.
    known: Mapping[str, Any] = Recipe.model_fields
    keys: list[str] = []
    for part in map(str, place):
        if part not in known:
            break
        keys.append(part)
        section = known[part].annotation
        known = section.model_fields if isinstance(section, type) and issubclass(section, Section) else {}
    name = ".".join(keys)
    if kind == "missing" and isinstance(place[-1], int):
        return f"{name}: too few values, number {place[-1] + 1} is missing"
    if kind != "extra_forbidden":
        return f"{name or 'recipe'}: {message.removeprefix('Value error, ')}"
    strange = str(place[-1])
    near = difflib.get_close_matches(strange, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"{name + '.' if name else ''}{strange}: no such key; {hint}"


def _set(stated: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    *sections, key = name.strip().split(".")
    if not equals or not sections or not key:
        raise UsageError(f"expected section.key=value, got {override!r}", where="--set")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = stated
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UsageError(f"{section!r} is a value, not a section", where=f"--set {override}")
    table[key] = value
