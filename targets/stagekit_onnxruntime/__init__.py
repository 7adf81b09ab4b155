"""ONNX Runtime's CPU execution provider as a stagekit target."""

from stagekit_onnxruntime.target import OnnxRuntimeTarget

__all__ = ["OnnxRuntimeTarget"]
