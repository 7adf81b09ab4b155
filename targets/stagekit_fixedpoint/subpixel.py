"""Rules for what makes pixels of channels and channels of pixels: ConvTranspose, DepthToSpace, SpaceToDepth.

In a transposed convolution with the stride ``s``, output pixel ``s q + r`` sees the taps ``r, s + r, 2 s + r, ...`` at
the input pixels ``q, q - 1, q - 2, ...``: a plain convolution for each of the ``s`` places ``r``, whose results are
then woven together. Nothing is multiplied by zeros in between, and nothing but the order of a sum differs: it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints, Requantize
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.geometry import pair
from stagekit_fixedpoint.products import narrow, single, weights
from stagekit_fixedpoint.program import Step, Tensor
from stagekit_fixedpoint.values import Pending, Refused, Stored, Value

Move = tuple[Callable[..., Step], tuple[int, ...], tuple[Any, ...]]
"""A kind of step that only moves numbers, the shape that it gives, and its arguments."""


def conv_transpose(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    x, weight = narrow(builder, builder.stored(node)), weights(builder, node, channel_axis=1)
    assert weight.stored is not None and weight.scale is not None
    if weight.stored.ndim != 4:
        raise Refused("only two-dimensional convolutions are computed")
    groups, steps, dilations = node.attributes.get_int("group", 1), pair(node, "strides"), pair(node, "dilations")
    builder.need("conv")
    builder.need("layout")
    if groups > 1:
        builder.need("depthwise")
        if weight.scale.size > 1:
            raise Refused("the scales of its weights are not along the output channels, which its groups mix")
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight.stored.shape[2:], strict=True)]
    starts, sizes = _placed(node, x, steps, reach)
    # Taps of each place; more than the kernel has where output_padding asks for pixels behind its reach.
    taps = [
        max(ceil(r / s), ceil((start + size) / s) - n + 1)
        for r, s, start, size, n in zip(reach, steps, starts, sizes, x.shape[1:], strict=True)
    ]
    kernel = _by_place(weight.stored, groups, steps, dilations, taps)
    places, channels = steps[0] * steps[1], weight.stored.shape[1] * groups
    parts = [n + t - 1 for n, t in zip(x.shape[1:], taps, strict=True)]
    pads = (taps[0] - 1, taps[1] - 1, taps[0] - 1, taps[1] - 1)
    name, key, bias = str(node.name), builder.array(f"{node.name}/weight", kernel), builder.constant(node, 2)

    def finish(output: str, requantize: Requantize, b: Ints) -> Step:
        apart = builder.like(builder.tensors[output], f"{output}/apart", (channels * places, *parts))
        stage = _repeated(requantize, places)
        keys = key, builder.array(f"{name}/bias", np.repeat(b, places))
        builder.emit(p.Convolution(name, (x.name,), apart.name, *keys, (1, 1), pads, (1, 1), groups, stage))
        return _moved(builder, name, apart, _woven(apart, steps, starts, sizes), output)

    real = np.zeros(1) if bias is None else bias.real
    return (Pending(name, (channels, *sizes), finish, single(x.scale * weight.scale), axis=1, bias=real),)


def depth_to_space(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    builder.need("layout")
    x, block = builder.stored(node), node.attributes.get_int("blocksize", 1) or 1
    if len(x.shape) != 3 or x.shape[0] % block**2:
        raise Refused(f"the shape {x.shape} does not divide into blocks of {block} x {block}")
    channels, height, width = x.shape[0] // block**2, *x.shape[1:]
    moves: list[Move] = []
    if node.attributes.get_string("mode", "DCR") == "DCR":  # the place is the outer half of a channel's index
        places = block**2
        turned = (p.Transpose, (channels, places, height, width), ((0, 2, 1, 3, 4),))
        moves = [_reshape(places, channels, height, width), turned, _reshape(*x.shape)]
    moves += _woven(x, (block, block), (0, 0), (block * height, block * width))
    out = builder.like(x, str(node.outputs[0].name), (channels, block * height, block * width))
    builder.emit(_moved(builder, str(node.name), x, moves, out.name))
    return (Stored(out),)


def space_to_depth(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    builder.need("layout")
    x, block = builder.stored(node), node.attributes.get_int("blocksize", 1) or 1
    if len(x.shape) != 3 or x.shape[1] % block or x.shape[2] % block:
        raise Refused(f"the shape {x.shape} does not divide into blocks of {block} x {block}")
    channels, height, width = x.shape[0], x.shape[1] // block, x.shape[2] // block
    out = builder.like(x, str(node.outputs[0].name), (channels * block**2, height, width))
    turned = (p.Transpose, (block, block, channels, height, width), ((0, 3, 5, 1, 2, 4),))
    moves = [_reshape(channels, height, block, width, block), turned, _reshape(*out.shape)]
    builder.emit(_moved(builder, str(node.name), x, moves, out.name))
    return (Stored(out),)


def _placed(
    node: ir.Node, x: Tensor, steps: Sequence[int], reach: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the output starts in all that the kernel reaches, and its height and width."""
    extra = pair(node, "output_padding", (0, 0))
    whole = [s * (n - 1) + e + r for s, n, e, r in zip(steps, x.shape[1:], extra, reach, strict=True)]
    kind = node.attributes.get_string("auto_pad", "NOTSET")
    given = node.attributes.get_ints("output_shape", ())
    if given or kind in ("SAME_UPPER", "SAME_LOWER"):
        sizes = list(given)[-2:] if given else [s * n for s, n in zip(steps, x.shape[1:], strict=True)]
        cut = [w - size for w, size in zip(whole, sizes, strict=True)]
        starts = [c // 2 if kind == "SAME_UPPER" else c - c // 2 for c in cut]
    else:
        pads = list(node.attributes.get_ints("pads", ()) or (0, 0, 0, 0)) if kind == "NOTSET" else [0, 0, 0, 0]
        starts, sizes = pads[:2], [w - a - b for w, a, b in zip(whole, pads[:2], pads[2:], strict=True)]
    if min(starts) < 0 or min(sizes) < 1:
        raise Refused(f"its output of {sizes} pixels does not lie within what its kernel reaches")
    return (starts[0], starts[1]), (sizes[0], sizes[1])


def _by_place(weight: Ints, groups: int, steps: Sequence[int], dilations: Sequence[int], taps: Sequence[int]) -> Ints:
    """(out, places, in / groups, taps, taps) as one axis of output channels, from (in, out / groups, kh, kw)."""
    ins, outs, kh, kw = weight.shape
    (sh, sw), (dh, dw) = steps, dilations
    whole = np.zeros((ins, outs, taps[0] * sh, taps[1] * sw), np.int64)
    whole[:, :, : dh * (kh - 1) + 1 : dh, : dw * (kw - 1) + 1 : dw] = weight
    parted = whole.reshape(groups, ins // groups, outs, taps[0], sh, taps[1], sw)
    flipped = parted[:, :, :, ::-1, :, ::-1].transpose(0, 2, 4, 6, 1, 3, 5)
    return np.ascontiguousarray(flipped.reshape(groups * outs * sh * sw, ins // groups, *taps))


def _repeated(stage: Requantize, times: int) -> Requantize:
    """For channels of which each has become several."""
    rescale = stage.rescale
    if len(rescale.shift) == 1:
        return stage
    multiplier, shift = (
        tuple(v for v in values for _ in range(times)) for values in (rescale.multiplier, rescale.shift)
    )
    return replace(stage, rescale=replace(rescale, multiplier=multiplier, shift=shift))


def _woven(x: Tensor, steps: Sequence[int], starts: Sequence[int], sizes: Sequence[int]) -> list[Move]:
    """From (channels, places, height, width) to the pixels that are the output."""
    (sh, sw), (channels, height, width) = steps, x.shape
    channels //= sh * sw
    moves = [
        _reshape(channels, sh, sw, height, width),
        (p.Transpose, (channels, height, sh, width, sw), ((0, 1, 4, 2, 5, 3),)),
        _reshape(channels, height * sh, width * sw),
    ]
    shape = [channels, height * sh, width * sw]
    for axis, start, size in zip((2, 3), starts, sizes, strict=True):
        if (start, size) != (0, shape[axis - 1]):
            shape[axis - 1] = size
            moves.append((p.Slice, tuple(shape), (axis, start, start + size, 1)))
    return moves


def _reshape(*shape: int) -> Move:
    return p.Reshape, shape, (shape,)


def _moved(builder: Builder, name: str, x: Tensor, moves: Sequence[Move], output: str) -> Step:
    """The last of the steps, which gives ``output``; those before it are emitted."""
    for index, (kind, shape, arguments) in enumerate(moves[:-1]):
        out = builder.like(x, f"{output}/move{index}", shape)
        builder.emit(kind(out.name, (x.name,), out.name, *arguments))
        x = out
    kind, _, arguments = moves[-1]
    return kind(f"{name}/moved", (x.name,), output, *arguments)
