"""From a tensor's statistics to the range that its integers shall cover: the calibration methods.

A method is a function of (statistics, number format, parameter); ``percentile:99.9`` names one with its
parameter. To add one, write the function and enter it in :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from stagekit.errors import UsageError, nearest
from stagekit.graph import Graph
from stagekit.graph.spec import Quantization
from stagekit.quant.formats import Array, NumberFormat, dequantise, limits, quantise
from stagekit.quant.statistics import BINS, Statistics

Range = tuple[float, float]
Method = Callable[[Statistics, NumberFormat, float], Range]

ENTROPY_BINS = 1024
"""ONNX Runtime's search takes time with the square of the bins: 0.2 s a tensor with these."""


def minmax(statistics: Statistics, form: NumberFormat, parameter: float) -> Range:
    """The extremes over all frames."""
    return statistics.minimum, statistics.maximum


def moving_average(statistics: Statistics, form: NumberFormat, parameter: float) -> Range:
    """Exponential moving averages of the frames' extremes (Jacob et al. 2018, section 3.1)."""
    return statistics.average_minimum, statistics.average_maximum


def percentile(statistics: Statistics, form: NumberFormat, parameter: float) -> Range:
    """``parameter`` percent of the values, cut on both sides alike; as ONNX Runtime's asymmetric percentile."""
    cumulative = np.cumsum(statistics.counts) / statistics.counts.sum()
    cut = (100.0 - parameter) / 200.0
    centres = statistics.centres()
    half = (centres[1] - centres[0]) / 2
    low = centres[np.searchsorted(cumulative, cut, side="right").clip(max=BINS - 1)] - half
    high = centres[np.searchsorted(cumulative, 1.0 - cut).clip(max=BINS - 1)] + half
    return max(float(low), statistics.minimum), min(float(high), statistics.maximum)


def entropy(statistics: Statistics, form: NumberFormat, parameter: float) -> Range:
    """The threshold of least Kullback-Leibler divergence, searched by ONNX Runtime (Migacz, GTC 2017).

    The search knows symmetric histograms alone. A tensor without negative values gets all of an unsigned
    type's levels for its upper half. The bins around zero count as much as their neighbours: behind a Relu half
    of all values are exactly zero, and the search would cut everything else away (NVIDIA's
    pytorch-quantization does the same).
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    reach = max(-statistics.minimum, statistics.maximum)
    if statistics.minimum == statistics.maximum:
        return statistics.minimum, statistics.maximum  # a single value: any threshold diverges equally
    one_sided = form.low == 0 and statistics.minimum >= 0
    levels = 255 if one_sided else 127
    counts, edges = _zoomed(statistics, reach)
    middle = ENTROPY_BINS // 2
    counts[middle - 1 : middle + 1] = counts[middle - 2], counts[middle + 1]
    extremes = (np.float32(statistics.minimum), np.float32(statistics.maximum))
    search = HistogramCollector("entropy", True, ENTROPY_BINS, levels, 100.0, "same")
    low, high = search.get_entropy_threshold((counts, edges, *extremes), levels)
    return max(float(low), statistics.minimum), min(float(high), statistics.maximum)


def mean_squared_error(statistics: Statistics, form: NumberFormat, parameter: float) -> Range:
    """The range with the smallest expected squared error of quantising the histogram (rounding and clipping).

    Searched over 100 fractions of the extremes, first of both ends together, then of either end alone where
    the format has a zero point to make use of it.
    """
    full = statistics.minimum, statistics.maximum
    fractions = np.linspace(0.01, 1.0, 100)
    centres, counts = _populated(statistics)

    def best(candidates: list[Range]) -> Range:
        return min(candidates, key=lambda r: squared_error(centres, counts, form, form.fit(*r)))

    chosen = best([(full[0] * f, full[1] * f) for f in fractions])
    if form.symmetric:
        return chosen
    chosen = best([chosen, *((full[0] * f, chosen[1]) for f in fractions)])
    return best([chosen, *((chosen[0], full[1] * f) for f in fractions)])


@dataclass(frozen=True, slots=True)
class NamedMethod:
    """A method with its default parameter (0 where it has none) and a line for people."""

    function: Method
    parameter: float
    help: str


METHODS: dict[str, NamedMethod] = {
    "minmax": NamedMethod(minmax, 0.0, "extremes over all images"),
    "moving-average": NamedMethod(moving_average, 0.0, "extremes averaged over images"),
    "percentile": NamedMethod(percentile, 99.99, "cuts the outermost values"),
    "entropy": NamedMethod(entropy, 0.0, "least Kullback-Leibler divergence"),
    "mse": NamedMethod(mean_squared_error, 0.0, "least squared error"),
}


def default_method(graphs: Iterable[Graph]) -> str:
    """``percentile``; for transformers ``minmax``, since all depends there on single values far beyond the rest."""
    transformer = any(node.op_type == "LayerNormalization" for graph in graphs for node in graph.body)
    return "minmax" if transformer else "percentile"


def parse_method(text: str) -> tuple[Method, float]:
    """``mse`` or ``percentile:99.9`` as a function and its parameter.

    Raises:
        UsageError: no method has this name, or the parameter makes no sense.
    """
    name, _, given = text.partition(":")
    if name not in METHODS:
        raise UsageError(f"no calibration method is called {name!r}" + nearest(name, METHODS), where="--method")
    known = METHODS[name]
    if not given:
        return known.function, known.parameter
    try:
        parameter = float(given)
    except ValueError:
        parameter = -1.0
    if known.parameter == 0.0 or not 50.0 < parameter <= 100.0:
        raise UsageError(f"{text!r}: expected `percentile:P` with 50 < P <= 100", where="--method")
    return known.function, parameter


def quantization_of(statistics: Statistics, form: NumberFormat, method: str) -> Quantization:
    """The scale and zero point of a tensor.

    On a grid of powers of two the neighbouring finer scale is taken where it errs less: it clips, and halves
    the step (the choice that Vitis AI's quantiser makes by the same measure).
    """
    function, parameter = parse_method(method)
    chosen = form.fit(*function(statistics, form, parameter))
    if form.grid != "power_of_two":
        return chosen
    finer = replace(chosen, scale=(chosen.scale[0] / 2,))
    if not form.symmetric:
        low, high = limits(form, chosen)
        finer = form.fit(low / 2, high / 2)
    centres, counts = _populated(statistics)
    return min((chosen, finer), key=lambda q: squared_error(centres, counts, form, q))


def squared_error(centres: Array, counts: Array, form: NumberFormat, quantization: Quantization) -> float:
    """The mean squared difference between values of a histogram and their quantised selves."""
    back = dequantise(quantise(centres, quantization, form), quantization)
    return float((counts * (centres - back) ** 2).sum() / max(counts.sum(), 1))


def _populated(statistics: Statistics) -> tuple[Array, Array]:
    seen = np.flatnonzero(statistics.counts)
    return statistics.centres()[seen], statistics.counts[seen].astype(np.float64)


def _zoomed(statistics: Statistics, reach: float) -> tuple[Array, Array]:
    """The histogram over [-reach, reach] in ``ENTROPY_BINS`` bins with their float32 edges."""
    counts, edges = np.histogram(
        statistics.centres(), ENTROPY_BINS, range=(-reach, reach), weights=statistics.counts.astype(np.float64)
    )
    return counts.astype(np.int64), edges.astype(np.float32)
