"""NVIDIA's TensorRT and TensorRT-RTX as a stagekit target."""

from stagekit_tensorrt.target import TensorRtTarget

__all__ = ["TensorRtTarget"]
