"""Programs of the small nets on the shipped devices, lowered once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from stagekit_fixedpoint.device import Device, load_device
from stagekit_fixedpoint.lowering import lowered
from stagekit_fixedpoint.program import Array, Program

from stagekit.graph import Graph

from .nets import NETS, qdq


@cache
def graph_for(net: str, device: str) -> Graph:
    return qdq(NETS[net](), load_device(device))


@cache
def program_for(net: str, device: str) -> Program:
    return lowered(graph_for(net, device), load_device(device)).program


@pytest.fixture(scope="session")
def programs() -> Callable[[str, str], Program]:
    return program_for


@pytest.fixture(scope="session")
def graphs() -> Callable[[str, str], Graph]:
    return graph_for


@pytest.fixture
def dpu() -> Device:
    return load_device("dpu-b4096-zcu104")


def codes(program: Program, batch: int = 2, seed: int = 0) -> dict[str, Array]:
    """Stored inputs: random over the whole format, with its ends among them."""
    random = np.random.default_rng(seed)
    found = {}
    for name in program.inputs:
        tensor = program.tensors[name]
        values = random.integers(tensor.format.lowest, tensor.format.highest + 1, (batch, *tensor.shape))
        values[random.random(values.shape) < 0.1] = tensor.format.lowest
        values[random.random(values.shape) < 0.1] = tensor.format.highest
        found[name] = values
    return found
