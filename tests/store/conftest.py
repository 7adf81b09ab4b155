"""A store on disk, a key, and a builder that says when it ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stagekit.graph.spec import Quantization, TensorSpec
from stagekit.store import EngineKey, Store
from stagekit.target import EngineBlob


@dataclass
class Clock:
    """Time as the test sets it."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Builder:
    """Writes the given files; counts its runs."""

    key: EngineKey
    files: dict[str, bytes] = field(
        default_factory=lambda: {"engine.xml": b"<net/>" * 9, "weights/a.bin": b"\1\2\3" * 99}
    )
    runs: int = 0

    def __call__(self, workdir: Path) -> EngineBlob:
        self.runs += 1
        assert not list(workdir.iterdir())
        for name, data in self.files.items():
            (workdir / name).parent.mkdir(parents=True, exist_ok=True)
            (workdir / name).write_bytes(data)
        (workdir / "timing.log").write_text("not part of the engine")
        return EngineBlob(
            workdir,
            tuple(self.files),
            self.key.inputs,
            self.key.outputs,
            {"format": 3, "shape": (1, 2)},
            {"cycles": 12.5, "by_size": {10: "ten", 9: "nine"}},
        )


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, warnings: list[str], clock: Clock) -> Store:
    return Store(tmp_path / "store", warn=warnings.append, clock=clock)


@pytest.fixture
def key() -> EngineKey:
    return numbered_key(0)


@pytest.fixture
def keys() -> Callable[[int], EngineKey]:
    """As many different keys as a test wants."""
    return numbered_key


@pytest.fixture
def builder() -> type[Builder]:
    return Builder


def numbered_key(number: int) -> EngineKey:
    return EngineKey(
        graph=f"{number:064x}",
        inputs=(TensorSpec("x", "uint8", ("batch", 4, 4, 3), "NHWC", Quantization((0.5,), (3,))),),
        outputs=(TensorSpec("y", "float32", ("batch", 2)),),
        target="fake",
        profile="ab" * 32,
        toolchain="fake 1.0",
        device="CPU avx2",
    )
