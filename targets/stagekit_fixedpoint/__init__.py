"""FPGA-style integer accelerators as a stagekit target, emulated bit for bit on the CPU."""

from stagekit_fixedpoint.target import FixedPointTarget

__all__ = ["FixedPointTarget"]
