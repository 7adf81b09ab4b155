"""An ONNX graph as a torch module: the very graph that is deployed, made differentiable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stagekit.errors import GraphError
from stagekit.graph import Graph
from stagekit.graph.fingerprint import in_order
from stagekit.tune.operators import OPERATORS, Operator

See = Callable[[str, Tensor], None]


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    operator: Operator
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]
    """What no later step reads."""


class GraphModule(nn.Module):
    """Runs a graph node by node in float32, whatever autocast says; its weights are constants, not parameters.

    Inputs and outputs are in the graph's order. Integer ones (those of Q/DQ graphs) are float tensors that hold
    whole numbers, so that gradients pass; see :mod:`stagekit.tune.operators`.

    Args:
        graph: a stage's, float or with Q/DQ nodes.

    Raises:
        GraphError: it has an operator that is not simulated.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._inputs = [s.name for s in graph.inputs]
        self._outputs = [s.name for s in graph.outputs]
        self._constants: dict[str, Tensor] = {}  # integers: shapes, axes, zero points; they stay on the host
        self._weights: dict[str, str] = {}
        for name, value in graph.body.initializers.items():
            if value.const_value is None:
                raise GraphError(f"the weight {name!r} has no value", where=graph.source)
            self._constants[name] = torch.from_numpy(value.const_value.numpy().copy())
        self._steps = self._plan(graph)
        read = {name for step in self._steps for name in step.inputs}
        for name in [n for n, c in self._constants.items() if n not in read or c.is_floating_point()]:
            constant = self._constants.pop(name)
            # A scalar stays on the host: a scale is read there, and torch takes one beside any device's tensors.
            if name in read and constant.dim() > 0:
                self._weights[name] = f"weight{len(self._weights)}"
                self.register_buffer(self._weights[name], constant, persistent=False)
            elif name in read:
                self._constants[name] = constant

    def forward(self, *inputs: Tensor, see: See | None = None) -> tuple[Tensor, ...]:
        """The outputs.

        Args:
            see: told about every tensor as it is made, by its name in the graph.
        """
        with torch.autocast(inputs[0].device.type, enabled=False):
            return self._run([x.float() if x.is_floating_point() else x for x in inputs], see)

    def _run(self, inputs: Sequence[Tensor], see: See | None) -> tuple[Tensor, ...]:
        values: dict[str, Any] = {"": None, **self._constants}
        values |= {name: getattr(self, buffer) for name, buffer in self._weights.items()}
        values |= dict(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            for name, value in zip(step.outputs, _call(step, values), strict=False):
                values[name] = value
                if see is not None:
                    see(name, value)
            for name in step.done:
                del values[name]
        return tuple(values[name] for name in self._outputs)

    def _plan(self, graph: Graph) -> list[_Step]:
        """The steps in order; what depends on constants alone, such as weights under a DQ, is computed now."""
        steps: list[_Step] = []
        for node in in_order(graph.body):
            name = f"{node.op_type} {node.name}"
            operator = OPERATORS.get(node.op_type)
            if operator is None or node.domain:
                raise GraphError(
                    f"the operator of {name} cannot be simulated for tuning; known: {', '.join(OPERATORS)}",
                    where=graph.source,
                )
            attributes = {key: attribute.value for key, attribute in node.attributes.items()}
            inputs = tuple("" if v is None else str(v.name) for v in node.inputs)
            step = _Step(name, operator, attributes, inputs, tuple(str(v.name) for v in node.outputs), ())
            if all(n in self._constants for n in inputs if n):
                made = _call(step, {"": None, **self._constants})
                self._constants |= dict(zip(step.outputs, made, strict=False))
            else:
                steps.append(step)
        return _with_ends(steps, {*self._outputs, *self._inputs, *self._constants, ""})


def _call(step: _Step, values: Mapping[str, Any]) -> Sequence[Tensor]:
    try:
        result = step.operator([values[name] for name in step.inputs], step.attributes)
    except (GraphError, RuntimeError, ValueError) as error:
        raise GraphError(f"cannot be simulated: {error}", where=step.name) from error
    return [result] if isinstance(result, Tensor) else list(result)


def _with_ends(steps: Sequence[_Step], kept: set[str]) -> list[_Step]:
    """Each step with the names that are read in it for the last time."""
    later = set(kept)
    planned: list[_Step] = []
    for step in reversed(steps):
        done = tuple(dict.fromkeys(n for n in (*step.inputs, *step.outputs) if n not in later))
        planned.append(_Step(step.name, step.operator, step.attributes, step.inputs, step.outputs, done))
        later |= {*step.inputs, *step.outputs}
    return planned[::-1]
