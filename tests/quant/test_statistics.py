"""Histograms that grow: merged, they are what one pass over everything gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stagekit.quant.statistics import BINS, observe

# Nearer to zero a value over the width of a bin is no longer a normal float32.
numbers = st.floats(-(2**20), 2**20, width=32).map(lambda x: x if abs(x) > 2.0**-90 else 0.0)
tensors = st.lists(hnp.arrays(np.float32, (1, 2, 3), elements=numbers), min_size=2, max_size=5)


@given(tensors)
@settings(max_examples=50)
def test_the_order_of_images_does_not_change_a_histogram(values: list[np.ndarray]) -> None:  # type: ignore[type-arg]
    def total(order: list[np.ndarray]):  # type: ignore[no-untyped-def, type-arg]
        first, *rest = [observe(v, 1) for v in order]
        for later in rest:
            first = first.merge(later)
        return first

    one, other = total(values), total(values[::-1])
    assert one.exponent == other.exponent
    assert np.array_equal(one.counts, other.counts)
    assert one.counts.sum() == sum(v.size for v in values)
    assert (one.minimum, one.maximum) == (min(v.min() for v in values), max(v.max() for v in values))
    whole = observe(np.concatenate(values), 1)
    assert np.array_equal(one.counts, whole.counts)
    assert np.allclose(one.channel_mean, whole.channel_mean)
    assert np.array_equal(one.channel_reach, whole.channel_reach)


def test_a_histogram_counts_where_numpy_does() -> None:
    x = np.random.default_rng(0).normal(size=(1, 4, 50)).astype(np.float32)
    seen = observe(x, 1)
    expected, _ = np.histogram(x, BINS, range=(-(2.0**seen.exponent), 2.0**seen.exponent))
    assert np.array_equal(seen.counts, expected)


def test_the_share_beyond_a_range_is_counted() -> None:
    x = np.linspace(-1, 1, 2001, dtype=np.float32).reshape(1, 1, -1)
    seen = observe(x, 1)
    assert abs(seen.share_outside(-0.5, 0.5) - 0.5) < 1e-3
    assert seen.share_outside(-1, 1) == 0


def test_a_tensor_of_zeros_is_all_in_one_bin() -> None:
    seen = observe(np.zeros((1, 2, 2), np.float32), 1)
    assert seen.counts.max() == 4
    merged = seen.merge(observe(np.full((1, 2, 2), 3.0, np.float32), 1))
    assert (merged.minimum, merged.maximum, merged.counts.sum()) == (0, 3, 8)


def test_moving_averages_follow_the_frames_in_order() -> None:
    frames = [observe(np.full((1, 1, 1), v, np.float32), 1) for v in (1.0, 2.0, 4.0)]
    merged = frames[0].merge(frames[1]).merge(frames[2])
    assert np.isclose(merged.average_maximum, 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4)
