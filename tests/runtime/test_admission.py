"""Who is let in."""

from __future__ import annotations

import pytest

from stagekit.errors import Overloaded
from stagekit.runtime.admission import FLOOR, Admission
from stagekit.runtime.queues import DeviceQueue


def test_the_cap_is_a_share_of_what_can_be_answered_within_the_slo() -> None:
    assert Admission(slo=0.5, share=0.8, capacity=100.0).limit == 40
    assert Admission(slo=0.001, capacity=100.0).limit == FLOOR
    assert Admission(slo=None, most=7, capacity=100.0).limit == 7


def test_a_refusal_says_when_there_will_be_room() -> None:
    admission = Admission(slo=0.5, share=0.8, capacity=100.0)
    admission.admit(39)
    with pytest.raises(Overloaded, match="42 requests are in flight") as refusal:
        admission.admit(42)
    assert refusal.value.retry_after == pytest.approx(0.03)
    assert admission.refused == 1


def test_results_that_fill_the_memory_keep_others_out() -> None:
    with pytest.raises(Overloaded, match="fill the memory"):
        Admission().admit(3, is_full=True)


def test_capacity_is_what_the_busiest_device_could_answer() -> None:
    admission = Admission(slo=1.0)
    devices = [DeviceQueue("a"), DeviceQueue("b")]
    devices[0].busy, devices[1].busy = 0.16, 0.32
    admission.observe(32, devices)
    assert admission.capacity == pytest.approx(100.0)
    assert admission.limit == 80
