"""NVIDIA's TensorRT and TensorRT-RTX as a stagekit target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagekit_tensorrt.target import TensorRtTarget

__all__ = ["TensorRtTarget"]


def __getattr__(name: str) -> Any:
    """The builder's process imports this package too, and needs nothing of the target."""
    if name == "TensorRtTarget":
        from stagekit_tensorrt.target import TensorRtTarget

        return TensorRtTarget
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
