"""Chromium for tests of reports, and the marker that they carry."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that has no way to the network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    arguments = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1320,1000",
    )
    offline = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", f"--user-data-dir={profile}")
    for argument in (*arguments, *offline):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    opened.set_page_load_timeout(120)
    yield opened
    opened.quit()


@pytest.fixture
def pictured(tmp_path: Path) -> tuple[list[Any], Path]:
    """Results of two made-up deployments with one picture, which they label differently in one corner."""
    import numpy as np

    from stagekit.bench.results import Picture
    from stagekit.data.images import write_image, write_mask

    from .made import CLASSES, made

    palette = [color for _, color in CLASSES]
    image = np.full((64, 64, 3), 120, np.uint8)
    truth = np.zeros((64, 64), np.uint8)
    truth[32:] = 1
    results = []
    for name, median, miou in (("first", 0.005, 0.60), ("second", 0.008, 0.58)):
        labels = truth.copy()
        labels[:8, :8] = name == "second"
        write_image(tmp_path / f"{name}.image.png", image)
        write_mask(tmp_path / f"{name}.truth.png", truth, palette)
        write_mask(tmp_path / f"{name}.labels.png", labels, palette)
        files = {kind: f"{name}.{kind}.png" for kind in ("image", "truth", "labels")}
        picture = Picture(task="landcover", stem="north", **files)
        target = "onnxruntime" if name == "first" else "openvino"
        results.append(made(name, median, miou, target=target).model_copy(update={"pictures": (picture,)}))
    return results, tmp_path
