"""Work that a device leaves to the host beside it, as it runs: a piece of the float graph between two stored tensors.

The host reads the device's integers as the real numbers that they stand for, computes in float32 with ONNX Runtime,
and writes integers as ONNX's QuantizeLinear does. It is no part of the arithmetic specification, nor of the modelled
time; all interpreters share what is written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints
from stagekit_fixedpoint.program import Array, Program


def compute(program: Program, step: p.Host, arrays: Sequence[Array]) -> Ints:
    """The step's output, int64."""
    reals = {
        name: ((array.astype(np.float64) - tensor.zero_point) * tensor.scale).astype(np.float32)
        for name, array, tensor in zip(step.names, arrays, (program.tensors[n] for n in step.inputs), strict=True)
    }
    real = _run(program.arrays[step.model].astype(np.uint8).tobytes(), reals)
    out = program.tensors[step.output]
    codes = np.rint(real / np.float32(out.scale)).astype(np.int64) + out.zero_point
    return np.asarray(np.clip(codes, out.format.lowest, out.format.highest), np.int64)


def _run(model: bytes, reals: Mapping[str, Array]) -> Array:
    return np.asarray(_session(model).run(None, dict(reals))[0])


@lru_cache(maxsize=256)
def _session(model: bytes) -> Any:
    """On one thread, so that float sums have one order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
