"""FPGA-style integer accelerators as a stagekit target, emulated bit for bit on the CPU."""
