"""Images and a labelled data set for the tiny backbone of ``zoo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stagekit.data.classes import Classes
from stagekit.data.folder import Folder, Sample, write_folder
from stagekit.data.images import write_image
from stagekit.session import Session


def picture(seed: int, height: int = 40, width: int = 56) -> Any:
    """A smooth coloured picture with some noise."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / generator.uniform(3, 9) + columns / generator.uniform(3, 9)) for _ in range(3)]
    noisy = 128 + 90 * np.stack(waves, axis=-1) + generator.normal(0, 12, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in a plain folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(6):
        write_image(folder / f"{index}.png", picture(index))
    return folder


@pytest.fixture(scope="session")
def labelled(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Eight images labelled by the float task ``land`` itself: its mIoU is 1, and int8 can only lose."""
    from stagekit.build.compile import compile
    from stagekit.store import Store

    folder = tmp_path_factory.mktemp("labelled")
    output = folder / "float.deploy"
    compile([zoo.stages, zoo.tasks["land"]], profile="ort-f32", output=output, store=Store(folder / "store"))
    with Session(output) as session:
        names = [c.name for c in session.tasks["land"].classes]
        colors = tuple(c.color for c in session.tasks["land"].classes)
        samples = [
            ("train" if i < 5 else "val", Sample(f"p{i}", picture(i), session.run(picture(i))["land"]))
            for i in range(8)
        ]
    return write_folder(folder / "data", Classes(tuple(names), colors), samples)
