"""Which engines share one stream, so that their calls keep their order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stagekit_openvino import OpenVinoTarget

from stagekit.cpu import usable_cores
from stagekit.targets import load_profile

TARGET, PROFILE = OpenVinoTarget(), load_profile("ov-f32")


def test_engines_on_all_cores_keep_their_order_and_one_call_waits_behind_another() -> None:
    for options in ({}, {"streams": 1}, {"threads": usable_cores()}):
        profile = replace(PROFILE, options=options)
        assert TARGET.ordered(profile)
        assert TARGET.in_flight(profile) == 2


@pytest.mark.parametrize(("options", "calls"), [({"streams": 3}, 3), ({"threads": usable_cores() + 1}, 1)])
def test_engines_with_threads_of_their_own_keep_none(options: dict[str, int], calls: int) -> None:
    profile = replace(PROFILE, options=options)
    assert not TARGET.ordered(profile)
    assert TARGET.in_flight(profile) == calls


def test_other_devices_keep_none() -> None:
    assert not TARGET.ordered(replace(PROFILE, device="GPU"))
