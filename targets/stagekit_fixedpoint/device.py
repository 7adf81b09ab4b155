"""Device descriptions: the arithmetic a device computes in and the machine that computes it, read from TOML.

A description has two tables, ``[arithmetic]`` and ``[machine]``; every number is checked when it is read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from stagekit.errors import UsageError, nearest
from stagekit_fixedpoint.arithmetic import OVERFLOWS, ROUNDINGS, STYLES, Format, Overflow, Rounding, Style

FOLDER = Path(__file__).parent / "devices"

OPERATORS = (
    *("conv", "depthwise", "matmul", "attention", "add", "mul", "concat", "max_pool", "average_pool"),
    *("resize_nearest", "resize_bilinear", "table", "softmax", "layer_norm", "layout"),
)
"""Kinds of work that a device may be able to do."""

Scales = Literal["power_of_two", "any"]
AccumulatorOverflow = Literal["forbid", "wrap", "saturate"]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The numbers of a device.

    Args:
        activation_bits, weight_bits: stored formats, signed; ``unsigned_activations`` allows uint as well.
        wide_bits: of activations that everything may write and all but products may read, as a residual stream needs
            them; of two activations that are multiplied the left one may be wide, and the array takes it in two
            passes, byte by byte. 0 for devices with one width.
        channel_exponents: whether sums, LayerNorm and softmax may read, and anything but a convolution may write,
            activations whose channels (for softmax: heads) count for different powers of two.
        bias_bits: 32 takes biases at the accumulator's scale; fewer are shifted left to it.
        accumulator_bits: of the running sum.
        accumulator_overflow: ``forbid`` refuses layers whose sum can leave it; ``wrap`` keeps the low bits;
            ``saturate`` clips the finished sum.
        scales: the grid of scales.
        per_channel: whether weights may have a scale for each output channel.
        zero_points: whether activations may have a zero point other than 0.
        style, rounding, overflow: of requantisation.
        multiplier_bits: significant bits of the factors where a shift alone does not do (mean, constant factor).
        operators: what it can do; the rest is reported by ``supports()``.
    """

    activation_bits: int
    weight_bits: int
    accumulator_bits: int
    scales: Scales
    style: Style
    rounding: Rounding
    operators: tuple[str, ...] = OPERATORS
    overflow: Overflow = "saturate"
    bias_bits: int = 32
    accumulator_overflow: AccumulatorOverflow = "forbid"
    per_channel: bool = False
    zero_points: bool = False
    unsigned_activations: bool = False
    multiplier_bits: int = 16
    wide_bits: int = 0
    channel_exponents: bool = False

    def allows(self, fmt: Format) -> bool:
        """Whether activations can be stored in a format."""
        return fmt.bits in (self.activation_bits, self.wide_bits) and (fmt.signed or self.unsigned_activations)


@dataclass(frozen=True, slots=True)
class Machine:
    """What :mod:`stagekit_fixedpoint.cycles` needs to know; each number is the vendor's unless it says fitted.

    Args:
        pixels, input_channels, output_channels: multiply-accumulates a cycle in each direction of the array.
        clock_mhz: of the array.
        cores: that work on different images at the same time.
        weight_kib, feature_kib: on-chip memory of one core.
        memory_gb_s: peak of the external memory that all cores share.
        memory_efficiency: the share of that peak which is left when several cores interleave their bursts (fitted).
        core_gb_s: the most that one core's ports move.
        layer_cycles: start of a layer: instruction fetch, first weights, drain (fitted).
        pipeline_efficiency: share of cycles in which a running array is fed (fitted).
        image_us: time a frame costs outside the array (host call, interrupt), hidden by several threads (fitted).
        element_gops: element-wise work (add, pool) a core does in 1e9 elements a second.
        shared_memory: weights and features share one buffer (NVDLA's CBUF).
        fuses_elementwise: whether a sum or pool runs with the convolution before it, tile by tile.
        keeps_features: whether a feature map may wait on the chip for the next layer.
    """

    pixels: int
    input_channels: int
    output_channels: int
    clock_mhz: float
    weight_kib: int
    feature_kib: int
    memory_gb_s: float
    core_gb_s: float
    cores: int = 1
    memory_efficiency: float = 1.0
    layer_cycles: int = 0
    pipeline_efficiency: float = 1.0
    image_us: float = 0.0
    element_gops: float = 1.0
    shared_memory: bool = False
    keeps_features: bool = True
    fuses_elementwise: bool = False

    @property
    def macs_per_cycle(self) -> int:
        return self.pixels * self.input_channels * self.output_channels

    def bandwidth(self, busy: int) -> float:
        """Bytes a nanosecond that each of ``busy`` cores moves; a core alone has the whole peak, up to its ports."""
        efficiency = self.memory_efficiency if busy > 1 else 1.0
        return min(self.core_gb_s, self.memory_gb_s * efficiency / busy)


@dataclass(frozen=True, slots=True)
class Device:
    """A device description."""

    name: str
    arithmetic: Arithmetic
    machine: Machine


def load_device(name_or_path: str, where: str = "option device_file") -> Device:
    """A shipped description by name, or one's own by path (ending in ``.toml``).

    Raises:
        UsageError: not found, not TOML, an unknown key, or a number that no device can have.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        shipped = sorted(p.stem for p in FOLDER.glob("*.toml"))
        raise UsageError(f"no device description {name_or_path!r}" + nearest(name_or_path, shipped), where=where)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the device description cannot be read: {error}", where=path) from error
    return parse_device(data, path.stem, str(path))


def parse_device(data: Mapping[str, Any], name: str, where: str) -> Device:
    """A description from TOML data; see :func:`load_device`."""
    for key in data:
        if key not in ("arithmetic", "machine"):
            raise UsageError(f"unknown table {key!r}" + nearest(key, ["arithmetic", "machine"]), where=where)
    arithmetic = _table(Arithmetic, data.get("arithmetic", {}), f"{where}, [arithmetic]")
    machine = _table(Machine, data.get("machine", {}), f"{where}, [machine]")
    _check_arithmetic(arithmetic, f"{where}, [arithmetic]")
    _check_machine(machine, f"{where}, [machine]")
    return Device(name, arithmetic, machine)


T = TypeVar("T", Arithmetic, Machine)


def _table(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    known = {f.name: f for f in fields(kind)}
    for key in data:
        if key not in known:
            raise UsageError(f"unknown key {key!r}" + nearest(key, list(known)), where=where)
    missing = [n for n, f in known.items() if f.default is MISSING and n not in data]
    if missing:
        raise UsageError(f"the key {missing[0]!r} is missing", where=where)
    values: dict[str, Any] = {}
    for key, value in data.items():
        wanted = str(known[key].type)
        fits = {
            "int": type(value) is int,
            "float": type(value) in (int, float),
            "bool": type(value) is bool,
        }.get(wanted, isinstance(value, list if wanted.startswith("tuple") else str))
        if not fits:
            raise UsageError(f"{key} must be a {wanted}, got {value!r}", where=where)
        values[key] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _check_arithmetic(a: Arithmetic, where: str) -> None:
    choices: dict[str, tuple[str, ...]] = {
        "style": STYLES,
        "rounding": ROUNDINGS,
        "overflow": OVERFLOWS,
        "scales": get_args(Scales),
        "accumulator_overflow": get_args(AccumulatorOverflow),
    }
    for key, allowed in choices.items():
        if getattr(a, key) not in allowed:
            raise UsageError(f"{key} {getattr(a, key)!r} is not one of {', '.join(allowed)}", where=where)
    ranges = {"activation_bits": (2, 16), "weight_bits": (2, 16), "bias_bits": (2, 32), "multiplier_bits": (2, 31)}
    for key, (low, high) in ranges.items():
        if not low <= getattr(a, key) <= high:
            raise UsageError(f"{key} must be from {low} to {high}, got {getattr(a, key)}", where=where)
    if a.wide_bits and not a.activation_bits < a.wide_bits <= 16:
        raise UsageError(f"wide_bits must be above activation_bits and at most 16, got {a.wide_bits}", where=where)
    product = a.activation_bits + a.weight_bits - 1
    if not product <= a.accumulator_bits <= 48:
        raise UsageError(
            f"accumulator_bits must be from {product} (one product of int{a.activation_bits} and"
            f" int{a.weight_bits}) to 48, got {a.accumulator_bits}",
            where=where,
        )
    if a.style == "shift" and a.scales == "any":
        raise UsageError("a device that only shifts needs scales = 'power_of_two'", where=where)
    if a.style == "double" and a.accumulator_bits > 32:
        raise UsageError("TFLite's double rounding is defined on 32-bit accumulators", where=where)
    for operator in a.operators:
        if operator not in OPERATORS:
            raise UsageError(f"unknown operator {operator!r}" + nearest(operator, OPERATORS), where=where)


def _check_machine(m: Machine, where: str) -> None:
    counts = ("pixels", "input_channels", "output_channels", "cores", "weight_kib", "feature_kib")
    for key in (*counts, "clock_mhz", "memory_gb_s", "core_gb_s", "element_gops"):
        if not 0 < getattr(m, key) < 1e9:
            raise UsageError(f"{key} must be a positive number, got {getattr(m, key)}", where=where)
    for key in ("memory_efficiency", "pipeline_efficiency"):
        if not 0 < getattr(m, key) <= 1:
            raise UsageError(f"{key} must be above 0 and at most 1, got {getattr(m, key)}", where=where)
    for key in ("layer_cycles", "image_us"):
        if not 0 <= getattr(m, key) < 1e9:
            raise UsageError(f"{key} must not be negative, got {getattr(m, key)}", where=where)
