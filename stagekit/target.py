"""The contract between stagekit and a device: targets, engines, lanes, buffers, profiles.

Nothing outside a target knows which target it talks to; :mod:`stagekit.targets` finds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from stagekit.errors import UsageError, nearest
from stagekit.graph.spec import TensorSpec

if TYPE_CHECKING:
    from stagekit.graph import Graph

Progress = Callable[[str], None]
"""Called with one line about what is happening now."""


def silent(_: str) -> None:
    """A :data:`Progress` that says nothing."""


@dataclass(frozen=True, slots=True)
class Availability:
    """What a target can do on this machine.

    Args:
        build: engines can be compiled here.
        run: engines can be loaded and run here.
        version: of the vendor's toolchain, empty when it is absent.
        devices: names that a profile's ``device`` may take here.
        reason: why building or running is not possible; empty when both are.
        remedy: what to install or change.
    """

    build: bool
    run: bool
    version: str = ""
    devices: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A node that a target cannot build, and why."""

    node: str
    op: str
    why: str


def listed(problems: Sequence[Unsupported]) -> str:
    """The first ten, and how many more there are."""
    shown = [f"{p.node} ({p.op}): {p.why}" for p in problems[:10]]
    return "; ".join(shown + [f"and {len(problems) - 10} more"] * (len(problems) > 10))


@dataclass(frozen=True, slots=True)
class Option:
    """A key that a target's profiles may set under ``[options]``.

    Args:
        type: what TOML must give (``int``, ``bool``, ``str`` or ``float``).
        help: one line for ``stagekit targets``.
        affects_engine: whether the compiled bytes depend on it; thread counts, say, do not.
    """

    type: type
    help: str
    affects_engine: bool = True


@dataclass(frozen=True, slots=True)
class Profile:
    """How to compile for a device and run on it; written as TOML.

    Args:
        name: the file's stem.
        target: canonical target name.
        device: the vendor's device name, e.g. ``CPU``.
        precision: ``f32``, ``bf16``, ``fp16``, ``int8`` or ``int16``; f32 means f32 all the way.
        batch: batch sizes that engines are built for, ascending.
        options: the target's own keys.
    """

    name: str
    target: str
    device: str = "CPU"
    precision: str = "f32"
    batch: tuple[int, ...] = (1,)
    options: Mapping[str, Any] = field(default_factory=dict)

    def engine_options(self, target: Target) -> dict[str, Any]:
        """The options that change compiled bytes, sorted by name."""
        return {k: self.options[k] for k in sorted(self.options) if target.options[k].affects_engine}

    def digest(self, target: Target) -> str:
        """A hash of what the compiled bytes depend on; the name and run-time options do not count."""
        facts = [self.target, self.device, self.precision, list(self.batch), self.engine_options(target)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def count(self, option: str, default: int) -> int:
        """An option that is a whole number above zero.

        Raises:
            UsageError: zero or less.
        """
        value = int(self.options.get(option, default))
        if option in self.options and value < 1:
            raise UsageError(f"{option} must be at least 1, got {value}", where=f"profile {self.name}")
        return value

    def choice(self, option: str, known: Sequence[str], default: str) -> str:
        """An option that is a word from a fixed set.

        Raises:
            UsageError: another word; names the nearest.
        """
        value = str(self.options.get(option, default))
        if value not in known:
            raise UsageError(f"{option} cannot be {value!r}" + nearest(value, known), where=f"profile {self.name}")
        return value

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "target": self.target,
            "device": self.device,
            "precision": self.precision,
            "batch": list(self.batch),
            "options": dict(self.options),
        }


@dataclass(frozen=True, slots=True)
class EngineBlob:
    """A compiled engine as files on disk.

    Args:
        root: the folder that holds ``files``.
        files: names relative to ``root``, in the target's own order.
        metadata: what the target needs to load it again (JSON data): at least its own format version.
        report: what it learnt while building, for people (e.g. modelled cycles).
    """

    root: Path
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Buffer(Protocol):
    """A tensor that may live on a device; contents never change while someone holds it.

    One in ordinary memory, which costs nothing to look at, may also have ``on_host`` set.
    """

    @property
    def spec(self) -> TensorSpec: ...

    def to_host(self) -> np.ndarray[Any, Any]:
        """The contents as a numpy array of ``spec``'s shape and type; read-only to the caller."""


class Completion(Protocol):
    """An engine call under way."""

    def wait(self) -> tuple[Buffer, ...]:
        """Blocks until the outputs are there.

        Raises:
            EngineError: the call failed.
        """

    def done(self) -> bool: ...


class Started(Protocol):
    """A call under way on an ordered device."""

    @property
    def outputs(self) -> tuple[Buffer, ...]:
        """What :meth:`wait` gives: before that there is nothing in them, but later calls may take them as inputs."""

    def wait(self) -> tuple[Buffer, ...]:
        """As :meth:`Completion.wait`, once."""


class Lane(Protocol):
    """One execution context of an engine; lanes of an engine run at the same time.

    A lane may also have ``run(inputs, batch) -> outputs``: the same call in the caller's thread, for targets
    whose calls need nothing but a thread to wait in. The runtime then changes no thread between two calls.

    On an ordered device (see :class:`Target`) it may have ``start(inputs, batch) -> Started``: the inputs may be
    outputs of calls that were started before and are not done.
    """

    def submit(self, inputs: Sequence[Buffer], batch: int) -> Completion:
        """Starts a call and returns at once.

        Inputs come in the order of ``Engine.inputs`` and have ``batch`` as their batch dimension.
        The outputs belong to the caller for as long as they are referenced; no later call changes them.
        """


class Engine(Protocol):
    """A loaded engine."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def batches(self) -> tuple[int, ...]: ...
    def lane(self) -> Lane: ...
    def close(self) -> None: ...


class Target(Protocol):
    """A device family and its toolchain.

    A target may also have ``in_flight(profile) -> int``: the calls worth having under way on one device at
    once, 2 where it does not say; ``ordered(profile) -> bool``: calls on the device run in the order in which
    they were started, whichever engines they are of, so that the next can be started before the one before is
    done; ``refusal(profile) -> str``, why nothing can be built with a profile on this machine, empty when it can;
    and ``adapter_target: str``, the target that SPMs and heads run on unless another is named, for devices that
    compute in integers alone.
    """

    name: str
    options: Mapping[str, Option]
    precisions: tuple[str, ...]

    def probe(self) -> Availability:
        """What can be done here; never raises because something is missing."""

    def toolchain(self, profile: Profile) -> str:
        """Name and version of all that shapes compiled bytes; enters the engine key. Cheap: no vendor import."""

    def device(self, profile: Profile) -> str:
        """The device that bytes are compiled for; enters the engine key. Needs no hardware."""

    def supports(self, graph: Graph, profile: Profile) -> list[Unsupported]:
        """Nodes that it could not build, found before building."""

    def boundaries(self, spec: TensorSpec, profile: Profile) -> list[TensorSpec]:
        """Formats (element type, layout) in which it can take or give ``spec`` at an edge.

        The plain one first, the one nearest to its own kernels last: that is taken where they are equally quick.
        """

    def compile(
        self,
        graph: Graph,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profile: Profile,
        workdir: Path,
        progress: Progress,
    ) -> EngineBlob:
        """Builds an engine into the empty folder ``workdir`` and touches nothing else.

        ``inputs`` and ``outputs`` give the edge formats, in the graph's order, each one of ``boundaries``.

        Raises:
            CompileError: the vendor's builder failed; names the node where it can.
        """

    def load(self, blob: EngineBlob, profile: Profile) -> Engine:
        """Opens an engine that this target compiled.

        Raises:
            EngineError: the files are not what the metadata says.
        """


@runtime_checkable
class Observing(Protocol):
    """What a target may offer besides: a look at the inner tensors of an engine whose report lists its layers."""

    def observe(
        self,
        root: Path,
        inputs: Sequence[np.ndarray[Any, Any]],
        reals: Mapping[str, np.ndarray[Any, Any]],
    ) -> tuple[list[np.ndarray[Any, Any]], list[dict[str, float | None]]]:
        """The engine's outputs, and for each layer of its report what these inputs did there.

        Args:
            root: the engine's files.
            inputs: as the engine takes them, of any batch.
            reals: tensors of the float model by name, for the same images.
        """


@dataclass(frozen=True, slots=True)
class HostBuffer:
    """A buffer in ordinary memory: what goes in from outside, and what CPU targets give back."""

    on_host: ClassVar[bool] = True

    spec: TensorSpec
    array: np.ndarray[Any, Any]

    def __post_init__(self) -> None:
        if self.array.dtype != self.spec.numpy_dtype or self.array.shape != self.spec.shape:
            raise UsageError(
                f"expected {self.spec.dtype} {self.spec.shape}, got {self.array.dtype} {self.array.shape}",
                where=self.spec.name,
            )

    def to_host(self) -> np.ndarray[Any, Any]:
        return self.array
