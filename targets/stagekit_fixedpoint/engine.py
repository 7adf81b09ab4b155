"""Running a program as an engine: floats at its edges are quantised as ONNX says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stagekit.graph import TensorSpec
from stagekit.target import Buffer, HostBuffer
from stagekit_fixedpoint.arithmetic import dtype_of
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.program import Array, Tensor


def run_program(fast: Fast, outputs: Sequence[TensorSpec], inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
    """One call; an interpreter may be run from many threads at once.

    Args:
        outputs: of the engine.
        inputs: of the call.
    """
    program = fast.program
    stored = {
        name: to_stored(buffer.to_host(), program.tensors[name])
        for name, buffer in zip(program.inputs, inputs, strict=True)
    }
    values = fast.run(stored)
    results = []
    for name, spec in zip(program.outputs, outputs, strict=True):
        array = np.ascontiguousarray(from_stored(values[name], program.tensors[name], spec.dtype == "float32"))
        array.flags.writeable = False
        results.append(HostBuffer(replace(spec, shape=array.shape), array))
    return tuple(results)


def to_stored(array: Array, tensor: Tensor) -> Array:
    """Floats quantised to nearest, ties to even, as ONNX's QuantizeLinear; integers as they are."""
    if array.dtype.kind != "f":
        return array
    codes = np.rint(array.astype(np.float32) / np.float32(tensor.scale)) + tensor.zero_point
    return np.asarray(np.clip(codes, tensor.format.lowest, tensor.format.highest).astype(dtype_of(tensor.format)))


def from_stored(array: Array, tensor: Tensor, as_float: bool) -> Array:
    """Stored integers, or the real numbers they stand for."""
    if not as_float:
        return array
    return (array.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)
