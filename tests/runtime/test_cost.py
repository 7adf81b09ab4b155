"""What is learnt from measured batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagekit.runtime.cost import Cost, LearntCost

SIZES = (1, 2, 4, 8)


@given(st.floats(1e-5, 1.0), st.floats(1e-5, 1.0), st.lists(st.sampled_from(SIZES), min_size=2, max_size=200))
def test_a_line_is_found_again(fixed: float, each: float, sizes: list[int]) -> None:
    learnt = LearntCost()
    for n in (1, 8, *sizes):
        learnt.observe(n, Cost(fixed, each)(n))
    assert learnt.cost(4) == pytest.approx(fixed + 4 * each, rel=1e-3)


def test_the_latest_measurements_count_most() -> None:
    learnt = LearntCost(Cost(1.0, 1.0))
    for n in (1, 4) * 300:
        learnt.observe(n, 2.0 + n)
    assert learnt.cost(1) == pytest.approx(3.0, rel=0.01)


def test_the_limit_is_where_an_image_gets_no_cheaper() -> None:
    assert LearntCost(Cost(0.0, 1.0)).limit(SIZES) == 1
    assert LearntCost(Cost(0.01, 1.0)).limit(SIZES) == 1
    assert LearntCost(Cost(1.0, 1.0)).limit(SIZES) == 8
    assert LearntCost(Cost(1.0, 10.0)).limit(SIZES) == 2


def test_larger_batches_are_tried_before_anything_is_known() -> None:
    learnt = LearntCost()
    assert learnt.limit(SIZES) == 8
    learnt.observe(8, 8.0)
    learnt.observe(1, 1.0)
    assert learnt.limit(SIZES) == 1


def test_calls_that_take_no_longer_for_more_are_worth_the_largest_batch() -> None:
    learnt = LearntCost()
    for n, seconds in ((1, 1.0), (8, 0.9)):
        learnt.observe(n, seconds)
    assert learnt.limit(SIZES) == 8
