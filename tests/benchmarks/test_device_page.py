"""docs/benchmarks.md and its picture: what is measured, modelled, noisy or missing is said as such."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def device_page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import device_page

    return device_page


def row(name: str, p50: float | None = 20.0, **facts: Any) -> dict[str, Any]:
    """A row as benchmarks/device.py writes it; ``p50`` in milliseconds."""
    measured = None if p50 is None else {"value": p50, "low": 0.9 * p50, "high": 1.1 * p50, "kind": "measured"}
    return {
        "model": "Net",
        "deployment": name,
        "target": "onnxruntime",
        "precision": "f32",
        "device": None,
        "tasks": ["sea"],
        "trained": True,
        "p50_ms": measured,
        "images_per_second": None,
        "stages_ms": None,
        "emulation_ms": None,
        "miou": {"sea": 0.75},
        "images": {"sea": 23},
        "agreement": {"sea": 0.98765},
        "over_uncut": {},
        "engines_mb": 13.6,
        "memory_mb": 70.0,
        "scaling": [],
        "noisy": [],
        **facts,
    }


def data(*rows: dict[str, Any]) -> dict[str, Any]:
    machine = {"cpu": "Some CPU", "cores": 2, "flags": ["avx2"], "memory": 8 << 30}
    left_out = {"trt-f32": "no GPU", "trt-int8": "no GPU"}
    facts = {"machine": machine, "versions": {"openvino": "1"}, "date": "2026-01-01", "left_out": left_out}
    return {**facts, "rows": list(rows)}


def test_measured_modelled_and_missing_are_told_apart(device_page: Any) -> None:
    stages = {"value": 0.5, "kind": "modelled"}
    text = device_page.page(data(row("fast"), row("dpu", None, device="some-dpu", stages_ms=stages)))
    assert "| fast | 20 (18–22) | – | 75.00 | 98.77 |" in text  # noqa: RUF001
    assert "| some-dpu | 0.5 *(modelled)* |" in text
    assert "Not here: `trt-f32`, `trt-int8` (no GPU)." in text
    assert "†" not in text


def test_what_was_measured_beside_other_work_is_listed(device_page: Any) -> None:
    told = ["others took 15 % of the processor"]
    rough, useless = row("rough", noisy=told, share=0.85), row("useless", noisy=told, share=0.5)
    text = device_page.page(data(rough, useless, row("slow")))
    assert "> - Net, rough: others took 15 % of the processor" in text
    assert "| rough | ≈ 20 † |" in text
    assert "| useless | – † |" in text, "a time that means nothing is not shown"  # noqa: RUF001
    assert "| slow | 20 (18–22) |" in text  # noqa: RUF001
    assert "Net, slow:" not in text


def test_rows_of_another_machine_say_so(device_page: Any) -> None:
    usual, other = "2 cores of Some CPU (AVX2), 2026-01-01", "4 cores of Another, 2026-02-02"
    text = device_page.page(data(row("a", where=usual), row("b", model="Large", where=other)))
    assert text.count("Measured elsewhere") == 1
    assert "Measured elsewhere: 4 cores of Another, 2026-02-02." in text.partition("## Large")[2]


def test_bars_are_as_long_as_times(device_page: Any) -> None:
    drawn = ElementTree.fromstring(device_page.picture([row("fast", 10.0), row("slow", 40.0), row("dpu", None)]))
    bars = [float(e.attrib["width"]) for e in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(bars) == 2, "what was not measured has no bar"
    assert bars[1] == pytest.approx(4 * bars[0], abs=0.5)


def test_the_page_and_its_picture_are_those_of_the_result_file() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "device_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
