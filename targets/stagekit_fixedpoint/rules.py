"""One rule for each ONNX operator that can be lowered."""

from __future__ import annotations

import operator

import onnx_ir as ir

from stagekit_fixedpoint import (
    elementwise,
    limits,
    moves,
    pools,
    products,
    quantization,
    resize,
    sequence,
    subpixel,
    tables,
)
from stagekit_fixedpoint.builder import Builder, RuleTable
from stagekit_fixedpoint.values import Refused, Value


def unknown(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """The rule for all other operators."""
    raise Refused("the target has no rule for this operator")


RULES: RuleTable = {
    "QuantizeLinear": quantization.quantize,
    "DequantizeLinear": quantization.dequantize,
    "Conv": products.conv,
    "ConvTranspose": subpixel.conv_transpose,
    "DepthToSpace": subpixel.depth_to_space,
    "SpaceToDepth": subpixel.space_to_depth,
    "BatchNormalization": products.batch_norm,
    "MatMul": products.matmul,
    "Gemm": products.gemm,
    "Add": elementwise.arithmetic_rule(operator.add),
    "Sub": elementwise.arithmetic_rule(operator.sub),
    "Mul": elementwise.arithmetic_rule(operator.mul),
    "Div": elementwise.arithmetic_rule(operator.truediv),
    "Pow": elementwise.arithmetic_rule(operator.pow),
    **dict.fromkeys(("Relu", "Clip"), elementwise.clip),
    "Min": limits.minimum,
    **{name: tables.function_rule(function) for name, function in tables.FUNCTIONS.items()},
    "PRelu": elementwise.prelu,
    "Cast": tables.cast,
    **dict.fromkeys(("MaxPool", "GlobalMaxPool"), pools.max_pool),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), pools.average_pool),
    "Resize": resize.resize,
    "Softmax": sequence.softmax,
    "LayerNormalization": sequence.layer_norm,
    **dict.fromkeys(("Identity", "Dropout"), moves.identity),
    "Constant": moves.constant,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), moves.reshape),
    "Transpose": moves.transpose,
    "Slice": moves.slice_,
    "Split": moves.split,
    "Gather": moves.gather,
    "Concat": moves.concat,
    "Pad": moves.pad,
}
