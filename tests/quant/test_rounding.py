"""Weights of spatial kernels keep their sums."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from stagekit.partition.verify import run_graph
from stagekit.quant.formats import NumberFormat, dequantise, quantise, steps
from stagekit.quant.rounding import quantise_weight, taps_apart
from stagekit.quant.scheme import QuantScheme

from .graphs import build

INT8 = NumberFormat("int8", symmetric=True)
SCHEME = QuantScheme(weight=INT8)


def depthwise(seed: int = 0, channels: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, 1, 3, 3)).astype(np.float32)


def test_the_sum_of_each_kernel_stays_within_half_a_step() -> None:
    weight = depthwise()
    scales = INT8.fit_channels(weight, 0)
    moved = quantise_weight(weight, scales, SCHEME).astype(np.float64) - steps(weight, scales)
    nearest = quantise(weight, scales, INT8).astype(np.float64) - steps(weight, scales)
    assert np.abs(moved.sum(axis=(1, 2, 3))).max() <= 0.5 + 1e-9
    assert np.abs(nearest.sum(axis=(1, 2, 3))).max() > 1.0
    assert np.abs(moved).max() < 1.0  # every tap is one of its two neighbours


@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_of_neighbours_with_such_a_sum_errs_less(seed: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(1, 1, 2, 3)).astype(np.float32)
    scales = INT8.fit(-4.0, 4.0)
    exact = steps(weight, scales).ravel()
    errors = quantise_weight(weight, scales, SCHEME).ravel() - exact
    choices = [np.array(c) - exact for c in itertools.product(*((np.floor(e), np.ceil(e)) for e in exact))]
    same = [float((c**2).sum()) for c in choices if np.isclose(c.sum(), errors.sum())]
    assert float((errors**2).sum()) <= min(same) + 1e-9


def test_no_tap_leaves_the_range_of_its_format() -> None:
    weight = np.array([[[[1.0, 1.0, 1.0, 0.496]]]], np.float32) * 127
    scale = INT8.fit(-127.0, 127.0)
    assert quantise_weight(weight, scale, SCHEME).max() == 127


def test_a_flat_picture_keeps_its_value_through_an_edge_filter() -> None:
    weight = depthwise(1) * 10
    weight -= weight.mean(axis=(2, 3), keepdims=True)  # what is flat gives zero
    scales = INT8.fit_channels(weight, 0)

    def answer(stored: np.ndarray) -> float:
        return float(np.abs(dequantise(stored, scales).sum(axis=(1, 2, 3))).max())

    assert answer(quantise_weight(weight, scales, SCHEME)) < answer(quantise(weight, scales, INT8)) / 2


@pytest.mark.parametrize(
    ("strides", "dilations"), [((2, 2), (1, 1)), ((3, 1), (1, 1)), ((2, 2), (2, 1)), ((4, 1), (2, 1))]
)
def test_each_place_of_a_transposed_convolution_keeps_the_sum_of_the_taps_it_sees(
    strides: tuple[int, int], dilations: tuple[int, int]
) -> None:
    """What rounding makes of a flat picture, pixel by pixel."""
    weight = np.random.default_rng(2).normal(size=(1, 16, 6, 5)).astype(np.float32)
    scales = INT8.fit(-4.0, 4.0)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", strides=strides, dilations=dilations)
    graph = build([node], {"x": [1, 1, 9, 9], "w": [1, 16, 6, 5]}, ["y"], {})
    apart = taps_apart(next(iter(graph.body)))

    def furthest(stored: np.ndarray) -> float:
        """The largest error where all taps of a place see the picture, in steps."""
        error = stored.astype(np.float32) - steps(weight, scales).astype(np.float32)
        answer = run_graph(graph, [np.ones((1, 1, 9, 9), np.float32), error])["y"]
        top, left = (size // 3 for size in answer.shape[2:])
        return float(np.abs(answer[:, :, top:-top, left:-left]).max())

    assert furthest(quantise_weight(weight, scales, SCHEME, apart)) <= 0.5 + 1e-5
    assert furthest(quantise(weight, scales, INT8)) > 0.5


def test_it_can_be_left_out() -> None:
    weight = depthwise()
    scales = INT8.fit_channels(weight, 0)
    plain = replace(SCHEME, keep_sums=False)
    np.testing.assert_array_equal(quantise_weight(weight, scales, plain), quantise(weight, scales, INT8))


def test_matrices_are_rounded_to_nearest() -> None:
    weight = np.random.default_rng(0).normal(size=(16, 8, 1, 1)).astype(np.float32)
    scales = INT8.fit_channels(weight, 0)
    np.testing.assert_array_equal(quantise_weight(weight, scales, SCHEME), quantise(weight, scales, INT8))
    matrix = weight[:, :, 0, 0]
    np.testing.assert_array_equal(quantise_weight(matrix, scales, SCHEME), quantise(matrix, scales, INT8))
