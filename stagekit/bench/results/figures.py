"""Numbers that say what they are, and the runs that they come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stagekit.bundle.manifest import Record

Kind = Literal["measured", "modelled", "published"]


class Figure(Record):
    """A number that says what it is.

    Attributes:
        kind: measured on this device, modelled from something, or published by others.
        low, high: 95 % confidence interval, where one was computed.
    """

    value: float
    unit: str
    kind: Kind = "measured"
    low: float | None = None
    high: float | None = None


class Samples(Record):
    """Raw samples as columns, an entry a query in the order of issue.

    Attributes:
        issued: seconds since the scenario began.
        latency: seconds from issue to answer.
        queued: seconds from issue to the query's first engine call; ``None`` where another's calls served it.
        request: which kind of request of the mix.
    """

    issued: tuple[float, ...] = ()
    latency: tuple[float, ...] = ()
    queued: tuple[float | None, ...] = ()
    request: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _columns_fit(self) -> Samples:
        if len({len(self.issued), len(self.latency), len(self.queued), len(self.request)}) != 1:
            raise ValueError("the columns differ in length")
        return self


class CallTimes(Record):
    """Engine calls of one label: a stage, an SPM or a head.

    Attributes:
        calls: images; ``batches`` engine calls; ``shared`` images whose result was there already.
        sizes: batches by their size.
        median, p90: seconds of a batch; ``total`` of all.
        macs: multiply-accumulates of an image, where the graph is known.
        bytes: the engine's size.
    """

    label: str
    adapter: bool
    calls: int
    batches: int
    shared: int = 0
    sizes: dict[int, int] = Field(default_factory=dict)
    median: float
    p90: float
    total: float
    macs: int | None = None
    bytes: int | None = None


class ScenarioResult(Record):
    """One scenario's run.

    Attributes:
        settings: as given to LoadGen or the loop.
        figures: by name, e.g. ``p90``, ``samples_per_second``.
        openings: places of the first query that each opening of the deployment answered.
        loadgen: lines of LoadGen's own summary; empty for plain loops.
        valid: LoadGen's verdict, early stopping included; ``None`` where it was not asked.
        problem: why it ended early; what is here was measured before.
    """

    scenario: str
    reuse: bool = True
    official: bool = False
    settings: dict[str, float | int | str] = Field(default_factory=dict)
    samples: Samples = Samples()
    figures: dict[str, Figure] = Field(default_factory=dict)
    calls: tuple[CallTimes, ...] = ()
    openings: tuple[int, ...] = (0,)
    loadgen: dict[str, str] = Field(default_factory=dict)
    valid: bool | None = None
    problem: str | None = None
