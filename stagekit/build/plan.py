"""In which form tensors cross the boundaries between stages: measured once, then remembered.

Inside, a vendor's kernels have an order of axes and an element type of their own; a boundary in another form
costs conversions on both sides. Which form is cheapest differs by target, precision and graph, so a target
offers forms, each pair of neighbouring stages is run in each of them, and the quickest is kept. Tasks conform
to it. The plan is a file in the store, named by all that it depends on, and is part of a deployment. Where the
target cannot run, nothing can be measured, and the form with the fewest bytes is taken: a boundary is memory traffic.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pydantic import TypeAdapter, ValidationError

from stagekit.build.engines import Builder
from stagekit.bundle import Boundary, PlannedBoundary, PlannedForm
from stagekit.graph import Graph, TensorSpec
from stagekit.runtime.lanes import Run, direct
from stagekit.store.key import canonical
from stagekit.target import Buffer, HostBuffer
from stagekit.whole import write_whole

Form = tuple[TensorSpec, ...]
Stage = tuple[str, Graph]
"""A stage's name and graph."""

ROUNDS = 9
"""Times that each form is measured, in turn with the others."""

NOISE = 0.02
"""Forms this near to the quickest, as a share of the two stages' time, count as quick: the last offered of them is
taken, being the nearest to the target's kernels. It also spares the SPMs and heads, which are not here to be timed."""

REVISION = 3
"""Counts changes to what a plan depends on or how it is measured."""

_PLAN = TypeAdapter(tuple[PlannedBoundary, ...])


@dataclass(frozen=True, slots=True)
class Plan:
    """Forms of all boundaries, in the order of the stages.

    Args:
        boundaries: with what was tried.
        built: digests of engines that were built to be measured.
    """

    boundaries: tuple[PlannedBoundary, ...]
    built: frozenset[str] = frozenset()

    @property
    def forms(self) -> list[Form]:
        return [b.chosen for b in self.boundaries]


def plan_boundaries(
    builder: Builder, stages: Sequence[Stage], boundaries: Sequence[Boundary], adapters: Builder, replan: bool = False
) -> Plan:
    """The form of each boundary: remembered, or measured now.

    Args:
        boundaries: at the end of each stage.
        adapters: builds SPMs and heads, which must be able to take and give the forms too.
        replan: measures again what is remembered.

    Raises:
        CompileError, StoreError, TargetUnavailable: see :class:`Builder`.
    """
    offers = [_offers(builder, adapters, graph) for _, graph in stages]
    if all(len(forms) == 1 for forms in offers):
        return Plan(tuple(_planned(b, forms) for b, forms in zip(boundaries, offers, strict=True)))
    path = builder.store.root / "plans" / f"{_name(builder, adapters, stages)}.json"
    if not replan:
        with suppress(OSError, ValidationError):
            return Plan(_PLAN.validate_json(path.read_bytes()))
    if not (builder.runs_here and builder.target.probe().run):
        return Plan(tuple(_planned(b, [_smallest(f)]) for b, f in zip(boundaries, offers, strict=True)))
    bench = _Bench(builder)
    planned: list[PlannedBoundary] = []
    for (first, second), boundary, forms in zip(pairwise(stages), boundaries, offers, strict=False):
        if len(forms) > 1:
            builder.progress(f"measuring {len(forms)} forms of the boundary {boundary.name}")
        planned.append(bench.choose(boundary, first, second, forms) if len(forms) > 1 else _planned(boundary, forms))
    planned.append(_planned(boundaries[-1], [_usual([b.chosen for b in planned], offers[-1])]))
    with suppress(OSError):  # a store that is read-only for us still serves
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _PLAN.dump_json(tuple(planned), indent=1))
    return Plan(tuple(planned), frozenset(bench.built))


def conformed(specs: Sequence[TensorSpec], forms: Mapping[str, TensorSpec]) -> tuple[TensorSpec, ...]:
    """An adapter's edges with those named brought into a boundary's form."""
    return tuple(spec.in_form(forms[spec.name]) if spec.name in forms else spec for spec in specs)


def _planned(boundary: Boundary, forms: Sequence[Form]) -> PlannedBoundary:
    return PlannedBoundary(boundary=boundary.name, chosen=forms[0])


def _usual(chosen: Sequence[Form], forms: Sequence[Form]) -> Form:
    """What no stage reads crosses as most boundaries do, for the SPM and the heads behind it."""
    votes = Counter((spec.dtype, spec.layout) for form in chosen for spec in form)
    return max(forms, key=lambda form: sum(votes[s.dtype, s.layout] for s in form))


def _smallest(forms: Sequence[Form]) -> Form:
    """The form with the fewest bytes, of equals the first."""
    return min(forms, key=lambda form: sum(spec.bind(batch=1).nbytes() for spec in form))


def _offers(builder: Builder, adapters: Builder, graph: Graph) -> list[Form]:
    """The forms that both sides know, the plain one first; tensors that have no such form stay plain."""
    known: list[tuple[str, str]] = []
    by_tensor: list[dict[tuple[str, str], TensorSpec]] = []
    for spec in graph.outputs:
        here = builder.target.boundaries(spec, builder.profile)
        there = adapters.target.boundaries(spec, adapters.profile)
        common = [s for s in here if s in there] or [spec]
        by_tensor.append({(s.dtype, s.layout): s for s in common})
        known += [key for key in by_tensor[-1] if key not in known]
    plain = tuple(graph.outputs)
    forms = [tuple(t.get(key, spec) for t, spec in zip(by_tensor, plain, strict=True)) for key in known]
    return list(dict.fromkeys([plain, *forms]))


def _name(builder: Builder, adapters: Builder, stages: Sequence[Stage]) -> str:
    """The plan's name: all that the choice depends on."""
    sides = [
        [b.target.name, b.profile.digest(b.target), b.target.toolchain(b.profile), b.target.device(b.profile)]
        for b in (builder, adapters)
    ]
    return hashlib.sha256(canonical([REVISION, [g.fingerprint for _, g in stages], sides])).hexdigest()


class _Bench:
    """Builds pairs of stages in several forms and times them."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self.built: set[str] = set()

    def choose(self, boundary: Boundary, first: Stage, second: Stage, forms: Sequence[Form]) -> PlannedBoundary:
        """The quickest form; of several that are, the last."""
        with ExitStack() as engines:
            chains = [self._chain(first, second, form, engines) for form in forms]
            frame = sample(first[1].inputs, self._builder.profile.batch[0])
            times = measure(chains, frame, self._builder.profile.batch[0])
        # Each round's ratio to the plain form: what else the machine did in that round slowed both.
        ratios = [statistics.median(t / plain for t, plain in zip(spent, times[0], strict=True)) for spent in times]
        chosen = max(index for index, ratio in enumerate(ratios) if ratio <= (1 + NOISE) * min(ratios))
        tried = tuple(
            PlannedForm(tensors=form, milliseconds=1000 * statistics.median(spent))
            for form, spent in zip(forms, times, strict=True)
        )
        return PlannedBoundary(boundary=boundary.name, chosen=forms[chosen], tried=tried)

    def _chain(self, first: Stage, second: Stage, form: Form, engines: ExitStack) -> tuple[Run, Run]:
        taken = tuple(f.renamed(s.name) for f, s in zip(form, second[1].inputs, strict=True))
        return (
            self._open(first, first[1].inputs, form, engines),
            self._open(second, taken, second[1].outputs, engines),
        )

    def _open(
        self, stage: Stage, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], engines: ExitStack
    ) -> Run:
        builder, (name, graph) = self._builder, stage
        made = builder.build(name, graph, inputs, outputs)
        if not made.cached:
            self.built.add(made.digest)
        engine = builder.target.load(made.blob, builder.profile)
        engines.callback(engine.close)
        return direct(engine)


def measure(chains: Sequence[tuple[Run, Run]], frame: Sequence[Buffer], batch: int) -> list[list[float]]:
    """Seconds of each chain in each round; in a round all have their turn."""
    times: list[list[float]] = [[] for _ in chains]
    for _ in range(ROUNDS + 1):
        for spent, (first, second) in zip(times, chains, strict=True):
            begun = time.perf_counter()
            second(first(frame, batch), batch)
            spent.append(time.perf_counter() - begun)
    return [spent[1:] for spent in times]


def sample(specs: Sequence[TensorSpec], batch: int) -> list[Buffer]:
    """Inputs to measure with: noise, since zeros can be quicker than anything real."""
    random = np.random.default_rng(0)
    sample: list[Buffer] = []
    for spec in specs:
        bound = spec.bind(batch=batch)
        noise = random.integers(0, 128, bound.concrete()) if "int" in bound.dtype else random.random(bound.concrete())
        sample.append(HostBuffer(bound, noise.astype(bound.numpy_dtype)))
    return sample
