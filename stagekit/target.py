"""The contract between stagekit and a device: targets, engines, lanes, buffers, profiles.

A target is a package that registers a class under the entry-point group ``stagekit.targets``; the built-in
ones use the same door. Nothing outside a target knows which target it talks to.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from stagekit.errors import TargetUnavailable, UsageError, nearest
from stagekit.graph.spec import TensorSpec

if TYPE_CHECKING:
    from stagekit.graph import Graph

ENTRY_POINT_GROUP = "stagekit.targets"

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
        precision: ``f32``, ``bf16``, ``fp16`` or ``int8``; f32 means f32 all the way.
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
    """A tensor that may live on a device; contents never change while someone holds it."""

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
    done; and ``adapter_target: str``, the target that SPMs and heads run on unless another is named, for devices
    that compute in integers alone.
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


def entries() -> dict[str, EntryPoint]:
    """All registered targets by the name users type (aliases such as ``trt`` included), unloaded."""
    return {entry.name: entry for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name)}


def get(name: str) -> Target:
    """The target of that name or alias.

    Raises:
        UsageError: no such target is registered; names the nearest.
        TargetUnavailable: its package does not import.
    """
    registered = entries()
    if name not in registered:
        raise UsageError(f"no target is called {name!r}" + nearest(name, registered), where="--target")
    try:
        target: Target = registered[name].load()()
    except ImportError as error:
        raise TargetUnavailable(f"the package of target {name!r} does not import: {error}", where=name) from error
    return target


def shipped_profiles(name: str) -> dict[str, Path]:
    """The profiles in a target's own package, by name, without importing it."""
    import importlib.util

    registered = entries()
    if name not in registered:
        raise UsageError(f"no target is called {name!r}" + nearest(name, registered), where="--target")
    spec = importlib.util.find_spec(registered[name].module.partition(".")[0])
    if spec is None or spec.origin is None:
        return {}
    return {path.stem: path for path in sorted((Path(spec.origin).parent / "profiles").glob("*.toml"))}


def load_profile(name_or_path: str, target: str | None = None) -> Profile:
    """A shipped profile by name, or a user's own by path (anything ending in ``.toml``).

    Args:
        name_or_path: e.g. ``ort-f32`` or ``./mine.toml``.
        target: restricts the search to one target's profiles.

    Raises:
        UsageError: not found, not TOML, an unknown key or a value that makes no sense; names the nearest key.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    else:
        shipped = {k: v for name in ([target] if target else entries()) for k, v in shipped_profiles(name).items()}
        if name_or_path not in shipped:
            raise UsageError(
                f"no profile is called {name_or_path!r}" + nearest(name_or_path, shipped),
                where="--profile",
                remedy="`stagekit targets` lists the shipped ones; a path ending in .toml names your own",
            )
        path = shipped[name_or_path]
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the profile cannot be read: {error}", where=path) from error
    return parse_profile(data, path.stem, where=str(path))


def default_profile(target: str) -> Profile:
    """The profile a target ships as its default: the one whose file sets ``default = true``, else the first."""
    paths = shipped_profiles(target)
    if not paths:
        raise UsageError(f"the target {target!r} ships no profile", where="--profile", remedy="give one by path")
    for path in paths.values():
        if tomllib.loads(path.read_text(encoding="utf-8")).get("default"):
            return load_profile(str(path))
    return load_profile(str(next(iter(paths.values()))))


def parse_profile(data: Mapping[str, Any], name: str, where: str) -> Profile:
    """A profile from TOML data (or a deployment's manifest), checked against its target's options."""
    known = ("name", "target", "device", "precision", "batch", "options", "default")
    for key in data:
        if key not in known:
            raise UsageError(f"unknown key {key!r}" + nearest(key, known), where=where)
    if not isinstance(data.get("target"), str):
        raise UsageError("the key 'target' is missing", where=where)
    target = get(data["target"])
    precision = data.get("precision", "f32")
    if precision not in target.precisions:
        raise UsageError(
            f"precision {precision!r} is not one of {target.name}'s: {', '.join(target.precisions)}", where=where
        )
    batch = data.get("batch", [1])
    sane = isinstance(batch, list) and bool(batch) and all(type(b) is int and 1 <= b <= 1024 for b in batch)
    if not sane or sorted(set(batch)) != batch:
        raise UsageError(f"batch must be an ascending list of sizes from 1 to 1024, got {batch!r}", where=where)
    device = data.get("device", "CPU")
    if not isinstance(device, str):
        raise UsageError(f"device must be a name, got {device!r}", where=where)
    options = data.get("options", {})
    for key, value in options.items():
        if key not in target.options:
            raise UsageError(f"unknown option {key!r} of {target.name}" + nearest(key, target.options), where=where)
        if type(value) is not target.options[key].type:
            raise UsageError(f"option {key!r} must be {target.options[key].type.__name__}, got {value!r}", where=where)
    return Profile(name, target.name, device, precision, tuple(batch), dict(options))
