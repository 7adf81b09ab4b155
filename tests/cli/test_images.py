"""Images that are given to ``run``: those that run, and those that are named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


def png(array: Any, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array, mode).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", b""),
        ("text.jpg", b"this is not a picture"),
        ("cut.png", png(np.zeros((64, 64, 3), np.uint8))[:60]),
    ],
)
def test_images_that_cannot_be_read_are_named(
    deployment: Path, stagekit: Run, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    done = stagekit("run", deployment, tmp_path / name, "-o", tmp_path / "out")
    assert done.code == 4
    assert name in done.err
    assert "Traceback" not in done.err
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "array",
    [
        np.full((20, 30), 128, np.uint8),
        np.full((20, 30, 4), 128, np.uint8),
        np.full((20, 30), 32768, np.uint16),
    ],
    ids=["grey", "rgba", "16 bit"],
)
def test_grey_rgba_and_16_bit_images_run(deployment: Path, stagekit: Run, tmp_path: Path, array: Any) -> None:
    (tmp_path / "image.png").write_bytes(png(array))
    done = stagekit("run", deployment, tmp_path / "image.png", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "out" / "image.land.png") as labels:
        assert labels.size == (30, 20)


def test_an_image_that_does_not_exist_is_named(deployment: Path, stagekit: Run, tmp_path: Path) -> None:
    done = stagekit("run", deployment, tmp_path / "absent.png")
    assert done.code == 4
    assert "absent.png" in done.err
