"""Every registered target with every profile that it ships, as far as this machine can run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from stagekit import targets
from stagekit.errors import TargetUnavailable
from stagekit.graph import Graph, TensorSpec
from stagekit.target import EngineBlob, HostBuffer, Profile, Target, silent

from .graphs import GRAPHS, Array, conv

BATCHES = (1, 3)


@dataclass(frozen=True)
class Bench:
    """A target, one of its profiles and a place to compile."""

    target: Target
    profile: Profile
    new_folder: Callable[[], Path]

    def compile(
        self, graph: Graph, inputs: Sequence[TensorSpec] = (), outputs: Sequence[TensorSpec] = ()
    ) -> EngineBlob:
        folder = self.new_folder()
        edges = (inputs or graph.inputs, outputs or graph.outputs)
        return self.target.compile(graph, *edges, self.profile, folder, silent)

    @property
    def tolerance(self) -> float:
        """Of the largest value: f32 must be f32; bf16 keeps 8 bits, and errors add up over layers."""
        return {"f32": 1e-4, "bf16": 3e-2, "fp16": 3e-3, "int8": 1e-1}[self.profile.precision]


def _shipped() -> list[tuple[str, str]]:
    # An alias ships the same profiles as the name it stands for.
    found = {
        path: (name, profile) for name in targets.entries() for profile, path in targets.shipped_profiles(name).items()
    }
    return sorted(found.values())


@cache
def why_not(name: str, profile_name: str) -> str:
    """Why a profile cannot be tried on this machine; empty when it can."""
    try:
        target = targets.get(name)
        available = target.probe()
        if not (available.build and available.run):
            return available.reason
        refused = target.supports(conv(), replace(targets.load_profile(profile_name, name), batch=BATCHES))
    except TargetUnavailable as error:
        return error.what
    return refused[0].why if refused else ""


SHIPPED = _shipped()
USABLE = [pair for pair in SHIPPED if not why_not(*pair)]


@pytest.fixture(scope="session", params=USABLE, ids=lambda pair: pair[1])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    name, profile_name = request.param
    profile = replace(targets.load_profile(profile_name, name), batch=BATCHES)
    return Bench(targets.get(name), profile, lambda: tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def compiled(bench: Bench) -> Callable[[str], tuple[Graph, EngineBlob]]:
    """A graph of the suite by name and its engine, compiled once a profile."""
    done: dict[str, tuple[Graph, EngineBlob]] = {}

    def get(name: str) -> tuple[Graph, EngineBlob]:
        if name not in done:
            graph = GRAPHS[name]()
            done[name] = graph, bench.compile(graph)
        return done[name]

    return get


def buffers(specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> tuple[HostBuffer, ...]:
    """Arrays as inputs of an engine."""
    return tuple(HostBuffer(replace(s, shape=a.shape), a) for s, a in zip(specs, arrays, strict=True))
