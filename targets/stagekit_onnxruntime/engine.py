"""Running an ONNX Runtime session: nothing is copied on the way in or out, and little Python runs on the way.

Between two calls of a chain every line of Python shows in the latency, since the caches are full of weights then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stagekit.graph.spec import BLOCKED, TensorSpec
from stagekit.target import Buffer

BFLOAT16 = 16
"""``TensorProto.BFLOAT16``: numpy has no such type, so ONNX Runtime is told."""


class OrtCall:
    """The calls of a session, which may be run from many threads at once."""

    def __init__(
        self, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batches: Sequence[int]
    ) -> None:
        # What the session's method of this name calls, once it has checked what is checked here too and made the
        # run's options anew (40 of 45 us; an IOBinding takes as long).
        self._run = session._sess.run_with_ort_values
        self._inputs = [spec.name for spec in inputs]
        self._names = [spec.name for spec in outputs]
        self._outputs = {batch: [spec.bind(batch=batch) for spec in outputs] for batch in batches}

    def __call__(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        given: dict[str, Any] = {}
        held = []  # the memory of inputs from elsewhere, which the session only looks at
        for name, buffer in zip(self._inputs, inputs, strict=True):
            if type(buffer) is OrtBuffer:
                given[name] = buffer.value
            else:
                array = np.ascontiguousarray(buffer.to_host()).reshape([int(d) for d in flat_shape(buffer.spec)])
                held.append(array)
                given[name] = _to_value(array, buffer.spec.dtype)
        # The session allocates a new output for every call.
        values = self._run(given, self._names, None)
        return tuple(OrtBuffer(spec, value) for spec, value in zip(self._outputs[batch], values, strict=True))


class OrtBuffer:
    """An output in ordinary memory, as ONNX Runtime's own value; see :class:`stagekit.target.Buffer`."""

    __slots__ = ("_array", "spec", "value")

    on_host = True

    def __init__(self, spec: TensorSpec, value: Any) -> None:
        self.spec = spec
        if any(isinstance(d, str) for d in spec.shape):
            self.spec = replace(spec, shape=tuple(value.shape()))
        self.value = value
        self._array: np.ndarray[Any, Any] | None = None

    def to_host(self) -> np.ndarray[Any, Any]:
        array = self._array
        if array is None:
            array = np.asarray(OrtMemory(self.value)).view(self.spec.numpy_dtype).reshape(self.spec.shape)
            self._array = array
        return array


class OrtMemory:
    """Keeps ONNX Runtime's memory alive under a numpy array (the array's ``base``), and read-only."""

    def __init__(self, value: Any) -> None:
        self._value = value
        nbytes = value.tensor_size_in_bytes()
        self.__array_interface__ = {
            "data": (value.data_ptr(), True),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def flat_shape(spec: TensorSpec) -> tuple[int | str, ...]:
    """The dimensions by which ONNX Runtime knows a tensor: a blocked one by NCHW, with the channels filled up."""
    if spec.layout != BLOCKED:
        return spec.shape
    batch, groups, height, width, size = spec.shape
    return batch, int(groups) * int(size), height, width


def _to_value(array: np.ndarray[Any, Any], dtype: str) -> Any:
    """ONNX Runtime's own value over a dense array's memory, which must outlive it."""
    from onnxruntime import OrtValue

    if dtype == "bfloat16":
        return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)._get_c_value()
    return OrtValue.ortvalue_from_numpy(array)._get_c_value()
