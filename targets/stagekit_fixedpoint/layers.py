"""What the device model needs to know of a layer, from a program or, for published networks, from their definition."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.networks import DEPTHS, Variant
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


def resnet_layers(depth: int, variant: Variant, size: int = 224, classes: int = 1000) -> list[Layer]:
    """The layers of :func:`stagekit_fixedpoint.networks.resnet` in 8 bits, without making its weights."""
    made: list[Layer] = []

    def conv(x: str, ins: int, outs: int, kernel: int, stride: int, side: int) -> tuple[str, int]:
        out, after = f"t{len(made)}", -(-side // stride)
        weights = ins * outs * kernel**2
        made.append(
            Layer(out, (x,), out, (ins * side**2,), outs * after**2, weights, after, after, ins, outs, (kernel, kernel))
        )
        return out, after

    def elementwise(inputs: tuple[str, ...], before: int, after: int) -> str:
        out = f"t{len(made)}"
        made.append(Layer(out, inputs, out, (before,) * len(inputs), after))
        return out

    x, side = conv("x", 3, 64, 7, 2, size)
    x, side = elementwise((x,), 64 * side**2, 64 * (side // 2) ** 2), side // 2
    channels = 64
    for stage, units in enumerate(DEPTHS[depth]):
        width = 64 * 2**stage
        for unit in range(units):
            last = stage < 3 and unit == units - 1
            stride = 2 if (last if variant == "last" else stage > 0 and unit == 0) else 1
            first, middle = (stride, 1) if variant == "v1" else (1, stride)
            inner, inside = conv(x, channels, width, 1, first, side)
            inner, inside = conv(inner, width, width, 3, middle, inside)
            inner, inside = conv(inner, width, 4 * width, 1, 1, inside)
            if channels != 4 * width:
                x, side = conv(x, channels, 4 * width, 1, stride, side)
            elif stride > 1:
                x, side = elementwise((x,), channels * side**2, channels * inside**2), inside
            channels = 4 * width
            x = elementwise((inner, x), channels * side**2, channels * side**2)
    x = elementwise((x,), channels * side**2, channels)
    made.append(
        Layer("logits", (x,), "logits", (channels,), classes, channels * classes, 1, 1, channels, classes, (1, 1))
    )
    return made
