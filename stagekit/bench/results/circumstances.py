"""What was measured, where, beside whom, and in how much memory."""

from __future__ import annotations

from stagekit.bench.results.figures import Figure
from stagekit.bundle.manifest import Record


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
    levels: float | None = None
    noisy: bool
    reasons: tuple[str, ...] = ()


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


class Roof(Record):
    """The device's limits, as numpy reaches them: multiply-accumulates and bytes a second."""

    macs_per_second: Figure
    bytes_per_second: Figure
