"""One graph to one engine in the store: the key, the look-up, and the build on a miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stagekit.errors import CompileError, UsageError
from stagekit.graph import Graph, TensorSpec
from stagekit.store import EngineKey, Store, Stored
from stagekit.target import EngineBlob, Profile, Progress, Target, listed, silent
from stagekit.targets import refusal


@dataclass(frozen=True, slots=True)
class WantedEngine:
    """A graph to be built, with the formats of its edges.

    Args:
        name: what it is, for people: ``stage2``, ``landcover/spm0``, ``landcover/head``.
    """

    name: str
    graph: Graph
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine in the store, and how it came there.

    Args:
        graph: its name as a :class:`WantedEngine`.
        digest: its key in the store.
        cached: found, not built.
        seconds: looking up (contents verified) or building took.
        bytes: size of its files.
        blob: the files, in the store; none of an engine that is built elsewhere.
    """

    graph: str
    fingerprint: str
    digest: str
    cached: bool
    seconds: float
    bytes: int
    blob: EngineBlob


@dataclass(frozen=True)
class Builder:
    """Builds for one target with one profile into one store."""

    target: Target
    profile: Profile
    store: Store
    progress: Progress = silent

    runs_here: ClassVar[bool] = True
    """Whether an engine can be loaded and run as soon as it is built."""

    def key(self, graph: Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> EngineKey:
        return EngineKey(
            graph=graph.fingerprint,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            target=self.target.name,
            profile=self.profile.digest(self.target),
            toolchain=self.target.toolchain(self.profile),
            device=self.target.device(self.profile),
        )

    def build(
        self,
        name: str,
        graph: Graph,
        inputs: Sequence[TensorSpec] | None = None,
        outputs: Sequence[TensorSpec] | None = None,
    ) -> BuiltEngine:
        """The engine of a graph, from the store or built now.

        Args:
            inputs: edge formats; the graph's own by default.
            outputs: likewise.

        Raises:
            CompileError: the target cannot build a node, or its builder fails; nothing is stored.
            TargetUnavailable: the engine is not in the store and cannot be built here.
        """
        wanted = WantedEngine(name, graph, tuple(inputs or graph.inputs), tuple(outputs or graph.outputs))
        key = self.key(graph, wanted.inputs, wanted.outputs)
        made = self._made(wanted, key)
        return BuiltEngine(name, key.graph, key.digest, made.cached, made.seconds, made.bytes, made.blob)

    def _made(self, wanted: WantedEngine, key: EngineKey) -> Stored:
        name, graph = wanted.name, wanted.graph

        def compile_into(workdir: Path) -> EngineBlob:
            self.progress(f"compiling {name}")
            self._check_supported(name, graph)
            return self.target.compile(graph, wanted.inputs, wanted.outputs, self.profile, workdir, self.progress)

        return self.store.get_or_build(key, compile_into, self.progress)

    def _check_supported(self, name: str, graph: Graph) -> None:
        if why := refusal(self.target, self.profile):
            raise UsageError(
                why, where=f"profile {self.profile.name}", remedy="`stagekit targets` lists what runs here"
            )
        problems = self.target.supports(graph, self.profile)
        if problems:
            raise CompileError(f"{self.target.name} cannot build {name}: {listed(problems)}", where=graph.source)
