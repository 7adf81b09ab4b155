"""The type of what an int8 engine computes in floats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stagekit_openvino import OpenVinoTarget
from stagekit_openvino import target as module
from stagekit_openvino.target import floats

from stagekit.errors import UsageError
from stagekit.target import Profile
from stagekit.targets import load_profile


def int8(stated: str) -> Profile:
    profile = load_profile("ov-int8")
    return replace(profile, options={**profile.options, "floats": stated})


def test_int8_leaves_floats_in_f32_unless_told() -> None:
    assert floats(load_profile("ov-int8")) == "f32"
    assert floats(load_profile("ov-int8-bf16")) == "bf16"
    assert floats(load_profile("ov-bf16")) == "bf16"


@pytest.mark.parametrize(("instructions", "expected"), [(True, "bf16"), (False, "f32")])
def test_the_processor_may_decide(instructions: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "computes_bf16", lambda: instructions)
    assert floats(int8("cpu")) == expected


def test_another_word_is_refused() -> None:
    with pytest.raises(UsageError, match="floats cannot be 'f16'"):
        floats(int8("f16"))


def test_floats_that_the_processor_does_not_compute_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        available_devices = ("CPU",)

        def get_property(self, device: str, key: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(module, "_core", lambda profile: Core())
    assert OpenVinoTarget().refusal(load_profile("ov-int8")) == ""
    assert OpenVinoTarget().refusal(load_profile("ov-int8-bf16")) == "CPU computes in FP32, INT8, not in bf16"
