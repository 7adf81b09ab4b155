"""A program as text and an archive of its arrays: ``program.json`` and an ``.npz``, without pickle."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale
from stagekit_fixedpoint.program import STEPS, Array, Program, Step, Tensor


def to_json(program: Program) -> str:
    """All but the arrays."""
    data = {
        "device": program.device,
        "inputs": program.inputs,
        "outputs": program.outputs,
        "accumulator_bits": program.accumulator_bits,
        "accumulator_overflow": program.accumulator_overflow,
        "tensors": [asdict(t) for t in program.tensors.values()],
        "steps": [{"kind": type(s).__name__, **asdict(s)} for s in program.steps],
    }
    return json.dumps(data, indent=1)


def from_json(text: str, arrays: Mapping[str, Array]) -> Program:
    """The inverse of :func:`to_json`.

    Raises:
        ValueError, KeyError, TypeError: the text is not a program.
    """
    data = json.loads(text)
    tensors = [
        Tensor(**{**t, "shape": tuple(t["shape"]), "format": Format(**t["format"]), "exponents": tuple(t["exponents"])})
        for t in data["tensors"]
    ]
    return Program(
        data["device"],
        tuple(data["inputs"]),
        tuple(data["outputs"]),
        {t.name: t for t in tensors},
        tuple(_step(s) for s in data["steps"]),
        {name: array.astype(np.int64) for name, array in arrays.items()},
        data["accumulator_bits"],
        data["accumulator_overflow"],
    )


def pack_arrays(arrays: Mapping[str, Array]) -> bytes:
    """An ``.npz`` of the arrays, each in the smallest type that holds it; the same arrays give the same bytes."""
    stream = io.BytesIO()
    np.savez(stream, **{name: _narrow(array) for name, array in sorted(arrays.items())})  # type: ignore[arg-type]
    return stream.getvalue()


def _narrow(array: Array) -> Array:
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kind = next(
        k for k in (np.int8, np.int16, np.int32, np.int64) if np.iinfo(k).min <= low and high <= np.iinfo(k).max
    )
    return array.astype(kind)


def _step(data: dict[str, Any]) -> Step:
    kind = STEPS[data.pop("kind")]
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = data[field.name]
        if field.name == "requantize":
            value = Requantize(**{**value, "rescale": _rescale(value["rescale"]), "format": Format(**value["format"])})
        elif field.name == "rescales":
            value = tuple(_rescale(v) for v in value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return kind(**values)


def _rescale(data: dict[str, Any]) -> Rescale:
    return Rescale(tuple(data["multiplier"]), tuple(data["shift"]), data["rounding"], data["style"])
