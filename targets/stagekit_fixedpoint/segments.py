"""Runs of steps as one ONNX Runtime session each: 8-bit codes in, 8-bit codes out, images with channels last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Requantize
from stagekit_fixedpoint.coded import CONTRIB, OnnxBuilder, decoded, encoded, stored_shape
from stagekit_fixedpoint.kernels import Scaled, eight_bit, scaled
from stagekit_fixedpoint.program import Array, Program, Step, Tensor
from stagekit_fixedpoint.sums import exact_sum


def reason(program: Program, step: Step) -> tuple[bool, str]:
    """Whether a step has an exact kernel here, and the proof, or why not."""
    tensors = [program.tensors[name] for name in (*step.inputs, step.output)]
    if not all(eight_bit(t) for t in tensors):
        return False, "it is not 8 bits wide"
    if isinstance(step, p.Convolution | p.Linear):
        found = scaled(program, step)
        return (True, found.why) if isinstance(found, Scaled) else (False, found)
    if isinstance(step, p.Add):
        if tensors[0].shape != tensors[-1].shape or tensors[1].shape != tensors[-1].shape:
            return False, "it broadcasts"
        if exact_sum(program, step) is not None:
            return True, "QLinearAdd gives all 65536 results, tried here"
        return False, "QLinearAdd does not give all results"
    if isinstance(step, p.MaxPool):
        return True, "the order of codes is that of the values"
    if isinstance(step, p.Reshape | p.Transpose | p.Concatenate | p.Slice):
        return True, "it only moves codes"
    return False, "no kernel computes it"


class Segment:
    """Consecutive steps that all have exact kernels."""

    def __init__(self, program: Program, steps: Sequence[Step], outputs: Sequence[str], threads: int) -> None:
        self.program = program
        self.steps = tuple(steps)
        made = {s.output for s in steps}
        self.inputs = tuple(dict.fromkeys(n for s in steps for n in s.inputs if n not in made))
        self.outputs = tuple(outputs)
        net = OnnxBuilder()
        for name in self.inputs:
            net.input(name, stored_shape(program.tensors[name]))
        for step in steps:
            _add_step(net, program, step)
        self._session = net.session(self.outputs, threads)

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Stored integers in their natural type by name, in the graph's order of axes, in and out."""
        feeds = {name: encoded(values[name], self.program.tensors[name]) for name in self.inputs}
        results = self._session.run(self.outputs, feeds)
        return {n: decoded(r, self.program.tensors[n]) for n, r in zip(self.outputs, results, strict=True)}


def _last(axis: int, rank: int) -> int:
    """An axis of a tensor, as it is where images have channels last."""
    return {0: 0, 1: 3, 2: 1, 3: 2}[axis] if rank == 4 else axis


def _add_step(net: OnnxBuilder, program: Program, step: Step) -> None:
    tensors = program.tensors
    x = tensors[step.inputs[0]]
    rank, out = len(x.shape) + 1, step.output
    if isinstance(step, p.Convolution | p.Linear):
        _product(net, program, step)
    elif isinstance(step, p.Add):
        found = exact_sum(program, step)
        assert found is not None
        clamps = _clamps(step.requantize)
        net.add(step.inputs[0], step.inputs[1], found.scales, found.zero_points, f"{out}/sum" if clamps else out)
        if clamps:
            net.clamp(f"{out}/sum", step.requantize, out)
    elif isinstance(step, p.MaxPool):
        window = {"kernel_shape": step.kernel, "strides": step.strides, "pads": step.pads}
        net.node("NhwcMaxPool", step.inputs, out, CONTRIB, **window)
    elif isinstance(step, p.Concatenate):
        net.node("Concat", step.inputs, out, axis=_last(step.axis, rank))
    elif isinstance(step, p.Slice):
        numbers = [[step.start], [step.stop], [_last(step.axis, rank)], [step.stride]]
        net.node("Slice", [*step.inputs, *(net.constant(n, np.int64) for n in numbers)], out)
    elif isinstance(step, p.Transpose):
        plain = _plain(net, step.inputs[0], rank)
        if rank == 4:
            net.node("Transpose", [plain], out, perm=[step.order[i] for i in (0, 2, 3, 1)])
        else:
            net.node("Transpose", [plain], out, perm=step.order)
    else:
        assert isinstance(step, p.Reshape)
        plain = _plain(net, step.inputs[0], rank)
        shape = net.constant([0, *step.shape], np.int64)
        if len(step.shape) == 3:
            net.node("Reshape", [plain, shape], f"{out}/plain")
            net.node("Transpose", [f"{out}/plain"], out, perm=[0, 2, 3, 1])
        else:
            net.node("Reshape", [plain, shape], out)


def _plain(net: OnnxBuilder, name: str, rank: int) -> str:
    """The tensor in the graph's own order of axes."""
    if rank != 4:
        return name
    plain = f"{name}/plain{len(net.nodes)}"
    net.node("Transpose", [name], plain, perm=[0, 3, 1, 2])
    return plain


def _clamps(stage: Requantize) -> bool:
    return stage.low > stage.format.lowest or stage.high < stage.format.highest


def _product(net: OnnxBuilder, program: Program, step: p.Convolution | p.Linear) -> None:
    parameters, x = scaled(program, step), program.tensors[step.inputs[0]]
    assert isinstance(parameters, Scaled)
    one, zero = net.constant(1, np.float32), net.constant(parameters.zero_point, np.uint8)
    centre = net.constant(x.zero_point - x.format.lowest, np.uint8)
    weight_scale = parameters.scale if parameters.scale.size > 1 else parameters.scale.reshape(())
    weight, weight_zero = net.weight(program.arrays[step.weight], weight_scale.shape)
    scale, bias = net.constant(weight_scale, np.float32), net.constant(parameters.bias, np.int32)
    out = f"{step.output}/linear" if _clamps(step.requantize) else step.output
    if isinstance(step, p.Convolution):
        inputs = [step.inputs[0], one, centre, weight, scale, weight_zero, one, zero, bias]
        window = {"strides": step.strides, "pads": step.pads, "dilations": step.dilations, "group": step.groups}
        net.node("QLinearConv", inputs, out, CONTRIB, channels_last=1, **window)
    else:
        _matrix(net, step, x, [one, centre, weight, scale, weight_zero, bias, one, zero], out)
    if _clamps(step.requantize):
        net.clamp(out, step.requantize, step.output)


def _matrix(net: OnnxBuilder, step: p.Linear, x: Tensor, parameters: list[str], out: str) -> None:
    """QGemm takes matrices, so that tokens are joined with the batch and parted again."""
    source, result = step.inputs[0], out
    if len(x.shape) > 1:
        source, result = f"{out}/rows", f"{out}/products"
        net.node("Reshape", [step.inputs[0], net.constant([-1, x.shape[-1]], np.int64)], source)
    net.node("QGemm", [source, *parameters], result, CONTRIB)
    if len(x.shape) > 1:
        width = int(np.asarray(numpy_helper.to_array(net.constants[parameters[2]])).shape[1])
        net.node("Reshape", [result, net.constant([-1, *x.shape[:-1], width], np.int64)], out)
