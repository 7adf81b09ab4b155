"""What the device model needs to know of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.program import Program, Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """One pass over the array, or over the element-wise unit where ``kernel`` is (0, 0).

    Args:
        inputs, output: names of the tensors, to know what is still on the chip.
        input_bytes, output_bytes, weight_bytes: of one image; ``input_bytes`` one for each input.
        height, width: of the output; tokens lie along ``width``.
        per_group: input channels of a group.
        passes: times that the array runs, two where it takes 16-bit values byte by byte.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    input_bytes: tuple[int, ...]
    output_bytes: int
    weight_bytes: int = 0
    height: int = 1
    width: int = 1
    per_group: int = 1
    channels: int = 1
    kernel: tuple[int, int] = (0, 0)
    groups: int = 1
    passes: int = 1

    @property
    def macs(self) -> int:
        kh, kw = self.kernel
        return self.height * self.width * self.channels * self.per_group * kh * kw


def layers_of(program: Program) -> list[Layer]:
    """The layers of a program; what only moves numbers costs nothing, what the host does is not modelled."""
    found = []
    for step in program.steps:
        if isinstance(step, p.Reshape | p.Transpose | p.Slice | p.Concatenate | p.Pad | p.Host):
            continue
        out, inputs = program.tensors[step.output], [program.tensors[n] for n in step.inputs]
        layer = Layer(step.name, step.inputs, step.output, tuple(map(_bytes, inputs)), _bytes(out))
        found.append(_shaped(program, step, out, layer))
    return found


def _shaped(program: Program, step: p.Step, out: Tensor, layer: Layer) -> Layer:
    if isinstance(step, p.Convolution):
        weight = program.arrays[step.weight]
        return replace(
            layer,
            weight_bytes=weight.size * _width(program.tensors[step.inputs[0]]),
            height=out.shape[1],
            width=out.shape[2],
            per_group=weight.shape[1],
            channels=weight.shape[0],
            kernel=(weight.shape[2], weight.shape[3]),
            groups=step.groups,
        )
    rows = out.elements // out.shape[-1]
    if isinstance(step, p.Linear):
        ins, outs = program.arrays[step.weight].shape
        size = ins * outs * _width(program.tensors[step.inputs[0]])  # weights are as wide as what they meet
        return replace(layer, weight_bytes=size, width=rows, per_group=ins, channels=outs, kernel=(1, 1))
    if isinstance(step, p.Product):
        left, right = (program.tensors[n] for n in step.inputs)
        passes = _width(left) // _width(right)
        return replace(
            layer, width=rows, per_group=left.shape[-1], channels=out.shape[-1], kernel=(1, 1), passes=passes
        )
    return layer


def _width(tensor: Tensor) -> int:
    return -(-tensor.format.bits // 8)


def _bytes(tensor: Tensor) -> int:
    return tensor.elements * _width(tensor)
