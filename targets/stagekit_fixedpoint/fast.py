"""The fast interpreter: the same integers as the reference, by the fastest way that is proven exact for each step.

========== =================================================================================
kernel     ONNX Runtime's 8-bit kernels (:mod:`~stagekit_fixedpoint.kernels`), joined to segments
table      a function of one 8-bit tensor, or of two: all of its values, from the reference
bytes      16-bit products as four 8-bit ones (:mod:`~stagekit_fixedpoint.wide`)
maximum    the largest of a window, place by place, in the stored type
float64    sums of products in BLAS, bounded below 2**53 (:mod:`~stagekit_fixedpoint.blas`)
reference  numpy int64
========== =================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from stagekit_fixedpoint import blas, kernels, reference, self_test, wide
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import dtype_of
from stagekit_fixedpoint.program import Array, Program, Step
from stagekit_fixedpoint.segments import Segment, reason

Values = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Choice:
    """How a step is computed and why that is exact, or why nothing faster is."""

    step: str
    operator: str
    path: str
    why: str


class Fast:
    """A program made ready to run; calls may come from several threads."""

    def __init__(self, program: Program, threads: int = 1) -> None:
        self.program = program
        failed = self_test.self_test()
        self.choices: list[Choice] = []
        self._actions: list[Callable[[Values], None]] = []
        run: list[Step] = []
        for index, step in enumerate(program.steps):
            if isinstance(step, MOVES) and not run:
                exact, why = False, "a view"
            else:
                exact, why = (False, f"this processor fails {failed}") if failed else reason(program, step)
            if exact:
                run.append(step)
                self.choices.append(Choice(step.name, type(step).__name__, "kernel", why))
                continue
            self._flush(run, index, threads)
            run = []
            self.choices.append(self._single(step, why))
        self._flush(run, len(program.steps), threads)

    def run(self, inputs: Mapping[str, Array]) -> Values:
        """The outputs by name, each in its natural type.

        Args:
            inputs: stored integers by name, batch first.
        """
        tensors = self.program.tensors
        values: Values = {n: np.asarray(inputs[n]).astype(dtype_of(tensors[n].format)) for n in self.program.inputs}
        for action in self._actions:
            action(values)
        return {name: values[name] for name in self.program.outputs}

    def _flush(self, run: list[Step], end: int, threads: int) -> None:
        """Makes a segment of the steps gathered; its outputs are what later steps or the caller read."""
        if not run:
            return
        later = {name for step in self.program.steps[end:] for name in step.inputs} | set(self.program.outputs)
        segment = Segment(self.program, run, [s.output for s in run if s.output in later], threads)
        self._actions.append(lambda values: values.update(segment.run(values)))

    def _single(self, step: Step, why: str) -> Choice:
        program, kind = self.program, type(step).__name__
        tensors = [program.tensors[name] for name in step.inputs]
        narrow = all(kernels.eight_bit(t) for t in tensors)
        if isinstance(step, MOVES):
            self._actions.append(lambda values: _move(program, step, values))
            return Choice(step.name, kind, "reference", "it only moves numbers")
        if narrow and _is_unary(program, step):
            table = _unary_table(program, step)
            low = tensors[0].format.lowest
            self._actions.append(
                lambda values: values.update({step.output: table[_codes(values[step.inputs[0]], low)]})
            )
            return Choice(step.name, kind, "table", "256 values, from the reference")
        if narrow and _is_binary(step) and tensors[0].shape == tensors[1].shape:
            table = _binary_table(program, step)
            lows = [t.format.lowest for t in tensors]
            self._actions.append(lambda values: _look_up_pair(step, table, lows, values))
            return Choice(step.name, kind, "table", f"65536 pairs, from the reference; {why}")
        if isinstance(step, p.MaxPool):
            self._actions.append(lambda values: _max_pool(step, tensors[0].format.lowest, values))
            return Choice(step.name, kind, "maximum", "it only picks numbers")
        proof = wide.proven(program, step)
        if proof and isinstance(step, p.Convolution | p.Linear | p.Add):
            compute = wide.prepare(program, step)
            self._actions.append(lambda values: values.update({step.output: compute([values[n] for n in step.inputs])}))
            return Choice(step.name, kind, "bytes", proof)
        proof = blas.proven(program, step)
        if proof:
            compute = blas.prepare(program, step)
            self._actions.append(lambda values: values.update({step.output: compute([values[n] for n in step.inputs])}))
            return Choice(step.name, kind, "float64", f"{proof}; {why}")
        self._actions.append(lambda values: _by_reference(program, step, values))
        return Choice(step.name, kind, "reference", why)


MOVES = (p.Reshape, p.Transpose, p.Slice, p.Concatenate, p.Pad, p.ResizeNearest)
"""Steps of the reference that work on any integer type."""


def _move(program: Program, step: Step, values: Values) -> None:
    values[step.output] = reference.evaluate(program, step, values)


def _max_pool(step: p.MaxPool, lowest: int, values: Values) -> None:
    top, left, bottom, right = step.pads
    images, widths = values[step.inputs[0]].transpose(0, 2, 3, 1), ((0, 0), (top, bottom), (left, right), (0, 0))
    seen = blas.taps(np.pad(images, widths, constant_values=lowest), step.kernel, step.strides)
    values[step.output] = reduce(np.maximum, seen).transpose(0, 3, 1, 2)


def _by_reference(program: Program, step: Step, values: Values) -> None:
    wide = {name: values[name].astype(np.int64) for name in step.inputs}
    values[step.output] = reference.evaluate(program, step, wide).astype(dtype_of(program.tensors[step.output].format))


def _is_unary(program: Program, step: Step) -> bool:
    if isinstance(step, p.Convert):
        return len(step.requantize.rescale.shift) == 1
    return isinstance(step, p.Lookup) and len(program.arrays[step.table]) == 1


def _is_binary(step: Step) -> bool:
    """A function of two numbers, the same for all channels."""
    if not isinstance(step, p.Add | p.Multiply) or len(step.inputs) != 2:
        return False
    rescales = (step.requantize.rescale, *(step.rescales if isinstance(step, p.Add) else ()))
    return all(len(r.shift) == 1 for r in rescales)


def _codes(array: Array, lowest: int) -> Array:
    codes = array.view(np.uint8)
    return codes ^ np.uint8(128) if lowest else codes


def _unary_table(program: Program, step: Step) -> Array:
    x = program.tensors[step.inputs[0]]
    every = np.arange(x.format.lowest, x.format.highest + 1, dtype=np.int64)
    return reference.evaluate(program, step, {x.name: every}).astype(dtype_of(program.tensors[step.output].format))


def _binary_table(program: Program, step: Step) -> Array:
    a, b = (program.tensors[name].format for name in step.inputs)
    pairs = np.meshgrid(np.arange(a.lowest, a.highest + 1), np.arange(b.lowest, b.highest + 1), indexing="ij")
    names = ("left", "right")
    renamed = replace(
        program,
        tensors={**program.tensors, **{n: program.tensors[o] for n, o in zip(names, step.inputs, strict=True)}},
    )
    values = {n: x.reshape(-1).astype(np.int64) for n, x in zip(names, pairs, strict=True)}
    table = reference.evaluate(renamed, replace(step, inputs=names), values)
    return table.astype(dtype_of(program.tensors[step.output].format))


def _look_up_pair(step: Step, table: Array, lows: list[int], values: Values) -> None:
    left, right = (_codes(values[name], low) for name, low in zip(step.inputs, lows, strict=True))
    values[step.output] = table[(left.astype(np.uint16) << np.uint16(8)) | right]
