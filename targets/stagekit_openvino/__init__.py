"""Intel OpenVINO as a stagekit target."""

from stagekit_openvino.target import OpenVinoTarget

__all__ = ["OpenVinoTarget"]
