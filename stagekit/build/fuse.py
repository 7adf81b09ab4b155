"""Engines for runs of stages between which no task needs anything: fewer boundaries, the same function.

They come beside the stages' own engines and never in their place, so that a task which prompts in between can
be added later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from stagekit.build.engines import Builder, BuiltEngine
from stagekit.bundle import Boundary, DeployedTask, FusedRun
from stagekit.graph import Graph, TensorSpec
from stagekit.graph.join import join


def needed_boundaries(tasks: Iterable[DeployedTask]) -> set[str]:
    """The boundaries that some task prompts or reads."""
    return {name for task in tasks for name in (*task.reads, *(p.boundary for p in task.prompts))}


def runs(boundaries: Sequence[str], needed: AbstractSet[str]) -> list[tuple[int, int]]:
    """The longest runs of two or more stages that end at a needed boundary and have none inside; (first, last)."""
    found: list[tuple[int, int]] = []
    first = 0
    for last, name in enumerate(boundaries):
        if name in needed:
            if last > first:
                found.append((first, last))
            first = last + 1
    return found


def fused_runs(
    builder: Builder,
    stages: Sequence[tuple[str, Graph]],
    forms: Sequence[tuple[TensorSpec, ...]],
    boundaries: Sequence[Boundary],
    needed: AbstractSet[str],
) -> tuple[list[BuiltEngine], list[FusedRun]]:
    """Builds an engine for each run; its edges have the planned forms.

    Raises:
        CompileError, StoreError, TargetUnavailable: see :class:`Builder`.
    """
    engines: list[BuiltEngine] = []
    fused: list[FusedRun] = []
    for first, last in runs([b.name for b in boundaries], needed):
        graph = join([graph for _, graph in stages[first : last + 1]])
        taken = forms[first - 1] if first else graph.inputs
        inputs = tuple(t.renamed(s.name) for t, s in zip(taken, graph.inputs, strict=True))
        name = f"{stages[first][0]}-{stages[last][0]}"
        engines.append(builder.build(name, graph, inputs, forms[last]))
        fused.append(FusedRun(first=stages[first][0], last=stages[last][0], engine=engines[-1].digest))
    return engines, fused
