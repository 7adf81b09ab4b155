"""What an operator is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Any], Attributes], Any]
"""(inputs, attributes) to an output, or to a sequence of them; an input left out is None."""


def integers(tensor: Tensor) -> list[int]:
    """The numbers in a tensor of shapes or axes."""
    return [int(v) for v in tensor.flatten().tolist()]
