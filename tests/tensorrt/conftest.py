"""Profiles and, where TensorRT-RTX is installed, its builder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from stagekit_tensorrt.installed import installed_version

from stagekit.target import Profile

MakeProfile = Callable[..., Profile]


@pytest.fixture(scope="session")
def profile() -> MakeProfile:
    """Makes a profile: ``profile("fp16", batch=(1, 4), compute_capability="86")``."""

    def make(precision: str = "f32", batch: tuple[int, ...] = (1,), **options: Any) -> Profile:
        return Profile(f"trt-{precision}", "tensorrt", "GPU", precision, batch, options)

    return make


@pytest.fixture(scope="session")
def rtx(profile: MakeProfile) -> MakeProfile:
    """The same for TensorRT-RTX, which must be installed."""
    if not installed_version("tensorrt-rtx"):
        pytest.skip("NOT TESTED: TensorRT-RTX builds no engines here; pip install 'stagekit[tensorrt-rtx]'")

    def make(precision: str = "f32", batch: tuple[int, ...] = (1,), **options: Any) -> Profile:
        made = profile(precision, batch, builder="tensorrt-rtx")
        return replace(made, options={**made.options, **options})

    return make


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes a timing cache into the user's store."""
    monkeypatch.setenv("STAGEKIT_STORE", str(tmp_path_factory.mktemp("store")))
