"""Small programs to schedule, and what they must give, worked out call by call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stagekit.runtime.program import Call, Program, Ref
from stagekit.runtime.scheduler import Batch


def prompted(task: str, prompts: Sequence[int] = (), stages: int = 4) -> Program:
    """A task over ``s0, s1, ...`` with SPMs behind the stages named, each after the first reading the one before."""
    calls: list[Call] = []
    value = Ref(-1)
    semantic: Ref | None = None
    for stage in range(stages):
        calls.append(Call(f"s{stage}", (value,), f"stage{stage}"))
        value = Ref(len(calls) - 1)
        if stage in prompts:
            taken = (value,) if semantic is None else (value, semantic)
            calls.append(Call(f"{task}/p{stage}", taken, f"{task}/spm{stage}", adapter=True))
            value, semantic = Ref(len(calls) - 1), Ref(len(calls) - 1, 1)
    calls.append(Call(f"{task}/h", (value,), f"{task}/head", adapter=True))
    return Program(task, tuple(calls), Ref(len(calls) - 1))


def engines(programs: Sequence[Program]) -> list[str]:
    return list(dict.fromkeys(call.engine for program in programs for call in program.calls))


def outputs(engine: str, inputs: Sequence[Any]) -> tuple[Any, Any]:
    """What an engine gives: its name and its inputs, so that a value tells all that went into it."""
    return tuple((engine, output, *inputs) for output in range(2))  # type: ignore[return-value]


def compute(batch: Batch) -> list[Any]:
    return [outputs(batch.queue.digest, work.taken()) for work in batch.works]


def expected(program: Program, frame: Any) -> Any:
    """The result of a program run alone, call after call."""
    values: list[Any] = []
    for call in program.calls:
        values.append(outputs(call.engine, [frame if r.call < 0 else values[r.call][r.output] for r in call.inputs]))
    return values[program.result.call][program.result.output]
