"""One frozen backbone, many tasks: a compiler and runtime for vision models on devices.

::

    stagekit.partition("efficientnet_lite0", "lite0.stages", weights="lite0.pth")
    stagekit.compile(["lite0.stages", "landcover.task"], target="openvino", output="lite0.deploy")
    with stagekit.Session("lite0.deploy") as session:
        labels = session.run(image, tasks=["landcover"])["landcover"]

Names are imported when they are first used, so that ``import stagekit`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagekit_calib.verb import calibrate

    from stagekit import partition
    from stagekit.build.compile import compile
    from stagekit.errors import StagekitError
    from stagekit.session import Session

__all__ = ["Session", "StagekitError", "calibrate", "compile", "partition"]

_HOMES = {
    "Session": "stagekit.session",
    "StagekitError": "stagekit.errors",
    "calibrate": "stagekit_calib.verb",
    "compile": "stagekit.build.compile",
}


def __getattr__(name: str) -> Any:
    if name == "partition":
        return importlib.import_module("stagekit.partition")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stagekit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
