"""The library that a target stands on, imported when it is first needed; a target is listed even without it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from stagekit.errors import TargetUnavailable


def vendor_module(name: str, remedy: str) -> ModuleType:
    """A vendor's Python module.

    Raises:
        TargetUnavailable: it does not import, or a library of its own does not load.
    """
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        raise TargetUnavailable(f"{name} does not import: {error}", where=name, remedy=remedy) from error
