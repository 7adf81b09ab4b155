"""Results as data: one JSON file a deployment, with every raw sample and a published schema.

``stagekit report --schema`` prints the JSON schema. All times are in seconds, all sizes in bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from stagekit.bundle.manifest import Record
from stagekit.errors import ArtefactError

SCHEMA = 1
Kind = Literal["measured", "modelled", "published"]


class ResultError(ArtefactError):
    """A file of results is damaged, or of a schema that this version does not read."""


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
    loadgen: dict[str, str] = Field(default_factory=dict)
    valid: bool | None = None
    problem: str | None = None


class Accuracy(Record):
    """One task on labelled images; shares from 0 to 1.

    Attributes:
        per_class: by class and metric; ``None`` where the class does not occur.
        agreement: share of pixels with the reference deployment's label.
    """

    task: str
    data: str
    split: str | None
    images: int
    miou: Figure
    dice: Figure
    accuracy: Figure
    per_class: dict[str, dict[str, float | None]]
    agreement: Figure | None = None
    reference: str | None = None


class Picture(Record):
    """Files of one picture, beside the results: image, labels and (where known) truth."""

    task: str
    stem: str
    image: str
    labels: str
    truth: str | None = None


class BaselineRow(Record):
    """A task through its stages against the same task as one graph, in alternation; seconds each."""

    task: str
    staged: tuple[float, ...]
    uncut: tuple[float, ...]
    ratio: Figure
    agreement: Figure
    uncut_bytes: int


class ScalingRow(Record):
    """So many tasks on one backbone against as many whole models."""

    tasks: int
    shared_seconds: Figure
    separate_seconds: Figure
    shared_bytes: Figure
    separate_bytes: Figure


class Roof(Record):
    """The device's limits, as numpy reaches them: multiply-accumulates and bytes a second."""

    macs_per_second: Figure
    bytes_per_second: Figure


class Memory(Record):
    """Resident memory in bytes.

    Attributes:
        before: of the process before the deployment was opened.
        opened: after, and after one image through all tasks.
        peak: the most while scenarios ran.
        engines: files of all engines that the tasks need.
    """

    before: int
    opened: int
    peak: int
    engines: int


class DeployFacts(Record):
    """What was measured.

    Attributes:
        frame: height and width of what the first stage takes.
        tasks: classes with their colours, by task.
        compile_seconds: that building all engines took, once, on the machine that built them.
        emulates: what an emulating target models, e.g. ``modelled for dpu-b4096``: measured times are the
            emulator's then.
    """

    name: str
    target: str
    profile: str
    precision: str
    device: str
    toolchain: str
    backbone: str
    frame: tuple[int, int]
    tasks: dict[str, tuple[tuple[str, tuple[int, int, int]], ...]]
    compile_seconds: Figure | None = None
    emulates: str | None = None


class DeviceFacts(Record):
    """Where it was measured."""

    cpu: str
    flags: tuple[str, ...]
    cores: int
    machine: str
    governor: str | None = None
    memory: int | None = None
    accelerator: str | None = None
    system: str = ""


class NoiseProbe(Record):
    """What a loop of plain hashing got: share of the cores' time, and bytes a second of processor time."""

    share: float
    rate: float


class Noise(Record):
    """How far the machine was our own; see :mod:`stagekit.bench.noise`."""

    before: NoiseProbe
    after: NoiseProbe
    spread: float | None = None
    noisy: bool
    reasons: tuple[str, ...] = ()


class Result(Record):
    """Everything that ``stagekit bench`` found out about one deployment."""

    schema_: Literal[1] = Field(1, alias="schema")
    kind: Literal["bench"] = "bench"
    status: Literal["complete", "partial"] = "complete"
    problems: tuple[str, ...] = ()
    started: str
    command: tuple[str, ...] = ()
    commit: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    device: DeviceFacts
    deployment: DeployFacts
    mix: tuple[str, ...] = ()
    noise: Noise | None = None
    memory: Memory | None = None
    scenarios: tuple[ScenarioResult, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    pictures: tuple[Picture, ...] = ()
    baseline: tuple[BaselineRow, ...] = ()
    scaling: tuple[ScalingRow, ...] = ()
    roof: Roof | None = None

    def scenario(self, name: str, reuse: bool = True) -> ScenarioResult | None:
        """The scenario of that name, or none."""
        return next((s for s in self.scenarios if s.scenario == name and s.reuse == reuse), None)


def write(result: Result, path: Path) -> None:
    """Writes the results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(result.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> Result:
    """Results from a file.

    Raises:
        ResultError: no such file, no JSON, not results, of another schema, or damaged.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"the results cannot be read: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"this is not JSON: {error}", where=path) from error
    if not isinstance(data, dict) or data.get("kind") != "bench":
        raise ResultError("expected results of `stagekit bench`", where=path)
    if data.get("schema") != SCHEMA:
        remedy = "run `stagekit bench` again, or read them with the version that wrote them"
        raise ResultError(f"its schema is {data.get('schema')!r}, expected {SCHEMA}", where=path, remedy=remedy)
    try:
        return Result.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ResultError(f"the results are not valid: {problems}", where=path) from error


def schema() -> dict[str, Any]:
    """The JSON schema of a file of results."""
    return Result.model_json_schema(by_alias=True)
