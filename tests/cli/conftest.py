"""A deployment of two tasks, for what is run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def deployment(zoo: Any, stagekit: Callable[..., Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.deploy"
    done = stagekit("compile", zoo.stages, zoo.tasks["land"], zoo.tasks["sea"], "--target", "onnxruntime", "-o", path)
    assert done.code == 0, done.err
    return path
