"""Which GPUs TensorRT-RTX builds for: asked of the builder, and the same in our table and in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stagekit_tensorrt import child
from stagekit_tensorrt.config import RTX_CAPABILITIES, BuildConfig
from stagekit_tensorrt.typed import plan

from stagekit.errors import CompileError
from stagekit.target import silent

from . import nets
from .conftest import MakeProfile

PAGE = Path(__file__).parents[2] / "docs" / "tensorrt.md"
ROW = re.compile(r"^\| (?P<capability>\d+\.\d) \| .* \| (?P<answer>yes|refused) \|$", re.MULTILINE)


def documented() -> dict[int, bool]:
    """Whether TensorRT-RTX builds, by compute capability."""
    rows = ROW.finditer(PAGE.read_text(encoding="utf-8"))
    return {int(row["capability"].replace(".", "")): row["answer"] == "yes" for row in rows}


def test_the_page_names_every_capability_that_we_offer() -> None:
    assert sorted(number for number, builds in documented().items() if builds) == list(RTX_CAPABILITIES)
    assert {87, 90, 100, 103, 110} <= documented().keys()


@pytest.mark.parametrize(("number", "builds"), documented().items())
def test_the_builder_says_what_the_page_says(number: int, builds: bool, rtx: MakeProfile, tmp_path: Path) -> None:
    graph = nets.conv()
    plan(graph, graph.inputs, graph.outputs, rtx()).graph.save(tmp_path / "engine.onnx")
    request = child.write_request(tmp_path, "engine", BuildConfig("tensorrt-rtx", (number,), {}))
    if builds:
        assert child.run(request, silent).result["bytes"] > 0
    else:
        with pytest.raises(CompileError, match=f"builds for no compute capability {number}"):
            child.run(request, silent)
