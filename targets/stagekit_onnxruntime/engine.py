"""Running an ONNX Runtime session: nothing is copied on the way in or out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer, HostBuffer

BFLOAT16 = 16
"""``TensorProto.BFLOAT16``: numpy has no such type, so ONNX Runtime is told."""


class OrtCall:
    """The calls of a session, which may be run from many threads at once."""

    def __init__(
        self, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batches: Sequence[int]
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = {batch: [spec.bind(batch=batch) for spec in outputs] for batch in batches}

    def __call__(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        binding, outputs = self._session.io_binding(), self._outputs[batch]
        for spec, buffer in zip(self._inputs, inputs, strict=True):
            binding.bind_ortvalue_input(spec.name, _to_value(buffer))
        for spec in outputs:
            # Without a buffer of ours: the session allocates a new one for every call.
            binding.bind_output(spec.name, "cpu")
        self._session.run_with_iobinding(binding)
        return tuple(_to_buffer(spec, value) for spec, value in zip(outputs, binding.get_outputs(), strict=True))


@dataclass(frozen=True, slots=True)
class OrtBuffer(HostBuffer):
    """An output in ordinary memory, with ONNX Runtime's own value for whichever engine reads it next."""

    value: Any


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


def _to_value(buffer: Buffer) -> Any:
    """An OrtValue over the buffer's own memory; only an array that is not dense in C order is copied."""
    from onnxruntime import OrtValue

    if type(buffer) is OrtBuffer:
        return buffer.value
    array = np.ascontiguousarray(buffer.to_host()).reshape(buffer.spec.concrete())
    if buffer.spec.dtype == "bfloat16":
        return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)
    return OrtValue.ortvalue_from_numpy(array)


def _to_buffer(spec: TensorSpec, value: Any) -> OrtBuffer:
    shape = tuple(value.shape())
    array = np.asarray(OrtMemory(value)).view(spec.numpy_dtype).reshape(shape)
    return OrtBuffer(spec if spec.shape == shape else replace(spec, shape=shape), array, value)
