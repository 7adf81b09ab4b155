"""What to run for a task: engine calls with their inputs, each named by what it computes.

A call's key is the hash of its engine and of the keys of its inputs; a frame's key is given. Calls with equal
keys are one computation, whichever tasks ask for them, so that tasks share whatever comes before their first
difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from stagekit.bundle import DeployedStage, DeployedTask, FusedRun


@dataclass(frozen=True, slots=True)
class Ref:
    """An output of a call, or the frame (``call`` is then -1)."""

    call: int
    output: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One engine call.

    Args:
        engine: digest.
        inputs: in the engine's order.
        label: for traces: ``stage2``, ``landcover/spm0``.
        adapter: a task's own SPM or head, not a frozen stage.
    """

    engine: str
    inputs: tuple[Ref, ...]
    label: str
    adapter: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """Calls in an order in which each comes after those it reads, and where the result is."""

    task: str
    calls: tuple[Call, ...]
    result: Ref


def needs(task: DeployedTask) -> set[str]:
    """The boundaries that a task prompts or reads."""
    return {*task.reads, *(p.boundary for p in task.prompts)}


def last_read(task: DeployedTask, stages: Sequence[DeployedStage]) -> int:
    """The index of the last stage that a task needs: the one at whose end its head reads."""
    return max(i for i, s in enumerate(stages) if s.boundary.name in task.reads)


def task_program(
    task: DeployedTask,
    stages: Sequence[DeployedStage],
    fused: Mapping[str, FusedRun] = MappingProxyType({}),
    whole: bool = False,
) -> Program:
    """The calls of one task, as far as its head reads.

    Args:
        whole: go on to the last stage, though no head reads there.
        fused: by the name of their first stage, runs to make in one call; nothing inside them may be needed.

    Behind a prompted boundary, the next stage and the head get the prompted feature (equation 2); the
    semantic map goes from each SPM to the next, past the boundaries without one.
    """
    prompts = {p.boundary: (f"{task.name}/spm{i}", p.engine) for i, p in enumerate(task.prompts)}
    last = len(stages) - 1 if whole else last_read(task, stages)
    calls: list[Call] = []
    values: tuple[Ref, ...] = (Ref(-1),)
    semantic: Ref | None = None
    features: dict[str, Ref] = {}
    index = 0
    while index <= last:
        run = fused.get(stages[index].name)
        if run is not None:
            index = next(i for i, s in enumerate(stages) if s.name == run.last)
        stage = stages[index]
        calls.append(
            Call(stage.engine, values, stage.name)
            if run is None
            else Call(run.engine, values, f"{run.first}-{run.last}")
        )
        index += 1
        values = tuple(Ref(len(calls) - 1, i) for i in range(len(stage.boundary.tensors)))
        feature = stage.boundary.feature
        if stage.boundary.name in prompts:
            label, engine = prompts[stage.boundary.name]
            taken = (values[feature],) if semantic is None else (values[feature], semantic)
            calls.append(Call(engine, taken, label, adapter=True))
            values = (*values[:feature], Ref(len(calls) - 1, 0), *values[feature + 1 :])
            semantic = Ref(len(calls) - 1, 1)
        features[stage.boundary.name] = values[feature]
    calls.append(Call(task.head, tuple(features[name] for name in task.reads), f"{task.name}/head", adapter=True))
    return Program(task.name, tuple(calls), Ref(len(calls) - 1))


def call_keys(program: Program, frame: str) -> list[str]:
    """The key of every call for a frame with the given key."""
    keys: list[str] = []
    for call in program.calls:
        parts = [call.engine, *(frame if r.call < 0 else f"{keys[r.call]}:{r.output}" for r in call.inputs)]
        keys.append(hashlib.sha256("\n".join(parts).encode()).hexdigest())
    return keys
