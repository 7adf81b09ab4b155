"""GPUs are asked of the driver, and a machine without one is no error."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
from stagekit_tensorrt.builder import gpu
from stagekit_tensorrt.builder.gpu import CAPABILITY_MAJOR, Gpu, gpus


class Driver:
    """``libcuda.so.1`` of a machine with two GPUs."""

    names = ("NVIDIA RTX A4000", "NVIDIA GeForce RTX 5090")
    capabilities = ((8, 6), (12, 0))
    status = 0

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = self.names[device.value].encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self.capabilities[device.value][attribute != CAPABILITY_MAJOR]
        return 0


@pytest.fixture(autouse=True)
def ask_anew() -> Iterator[None]:
    gpus.cache_clear()
    yield
    gpus.cache_clear()


def test_every_gpu_is_named_with_its_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Driver())
    assert gpus() == (Gpu(0, "NVIDIA RTX A4000", 86), Gpu(1, "NVIDIA GeForce RTX 5090", 120))


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(gpu.ctypes, "CDLL", missing)
    assert gpus() == ()


def test_a_driver_that_does_not_start_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Driver()
    broken.status = 100
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: broken)
    assert gpus() == ()
