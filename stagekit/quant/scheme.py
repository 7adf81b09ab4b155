"""How one target wants its integers: read from a profile, never from a target's name.

Where Q/DQ nodes stand is the same for all targets; a scheme says what they hold. A target that computes in
integers lists :data:`SCHEME_OPTIONS` among its options, and its profiles set them::

    precision = "int8"
    [options]
    activation = "uint8"
    activation_symmetric = false
    bias = "int32"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast, get_args

from stagekit.cpu import adds_pairs_in_16_bits
from stagekit.errors import UsageError
from stagekit.quant.formats import Grid, NumberFormat
from stagekit.target import Option, Profile

if TYPE_CHECKING:
    from stagekit.quant.positions import Positions

Bias = Literal["float", "int32"]

SCHEME_OPTIONS: Mapping[str, Option] = {
    "activation": Option(str, "int8 activations are stored as int8 (default), uint8 or int16", affects_engine=False),
    "activation_symmetric": Option(bool, "zero point 0 for activations; true", affects_engine=False),
    "weight": Option(str, "int8 weights are stored as int8 (default) or int16", affects_engine=False),
    "weight_bits": Option(
        str, "of int8 weights: 8 (default), 7, or cpu: 7 where a processor adds pairs in 16 bits", affects_engine=False
    ),
    "headroom": Option(int, "bits left free above the range that calibration saw; 0", affects_engine=False),
    "bias_bits": Option(int, "bits of a device's biases, on a grid of their own; 32", affects_engine=False),
    "bias": Option(str, "biases stay float (default) or become int32 with their own DQ", affects_engine=False),
    "grid": Option(str, "scales are float (default) or power_of_two", affects_engine=False),
    "per_channel": Option(bool, "a scale for each output channel of a weight; true", affects_engine=False),
    "integer_only": Option(bool, "no float units: all that is stored is an integer; false", affects_engine=False),
    "channel_exponents": Option(bool, "a scale for each channel of the residual stream; false", affects_engine=False),
    "wide": Option(str, "int16: of softmax and of the residual stream; as the rest", affects_engine=False),
}
"""Options of every integer target. They shape the Q/DQ graph, whose fingerprint is in the engine's key already."""


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """Formats of activations, weights and biases.

    The default is what every integer toolchain takes, TensorRT's among them: int8, symmetric, zero point 0,
    weights per output channel, biases left alone.

    Args:
        headroom: bits left free above an activation's range, for devices whose numbers wrap around.
        keep_sums: a kernel's taps are rounded so that their sum stays; see :mod:`stagekit.quant.rounding`.
        bias_bits: of the integers that biases become on the device; see :mod:`stagekit.quant.short_bias`.
        integer_only: all that is stored is an integer; see :mod:`stagekit.quant.stored`.
        channel_exponents: a scale for each channel of the residual stream; see :mod:`stagekit.quant.exponents`.
        wide: the format of softmax's results and the residual stream on such a device, where it is another.
    """

    activation: NumberFormat = field(default=NumberFormat("int8", symmetric=True))
    weight: NumberFormat = field(default=NumberFormat("int8", symmetric=True))
    bias: Bias = "float"
    per_channel: bool = True
    keep_sums: bool = True
    headroom: int = 0
    bias_bits: int = 32
    integer_only: bool = False
    channel_exponents: bool = False
    wide: NumberFormat | None = None

    def form(self, tensor: str, positions: Positions) -> NumberFormat:
        """The format that an activation is stored in."""
        return self.wide if self.wide is not None and tensor in positions.wide else self.activation


def scheme_of(profile: Profile) -> QuantScheme:
    """The scheme that a profile's options spell out.

    Raises:
        UsageError: a value is not one of those known, or two contradict each other.
    """
    grid = cast(Grid, profile.choice("grid", get_args(Grid), "float"))
    bias = cast(Bias, profile.choice("bias", get_args(Bias), "float"))
    activation = profile.choice("activation", ("int8", "uint8", "int16"), "int8")
    weight = profile.choice("weight", ("int8", "int16"), "int8")
    symmetric = bool(profile.options.get("activation_symmetric", True))
    headroom = int(profile.options.get("headroom", 0))
    if not 0 <= headroom <= 8:
        raise UsageError(f"headroom must be from 0 to 8 bits, got {headroom}", where=f"profile {profile.name}")
    bias_bits = int(profile.options.get("bias_bits", 32))
    if not 2 <= bias_bits <= 32:
        raise UsageError(f"bias_bits must be from 2 to 32, got {bias_bits}", where=f"profile {profile.name}")
    integer_only = bool(profile.options.get("integer_only", False))
    wide = profile.choice("wide", (activation, "int16"), activation)
    return QuantScheme(
        NumberFormat(activation, symmetric, grid),
        NumberFormat(weight, True, grid, _weight_bits(profile)),
        bias,
        bool(profile.options.get("per_channel", True)),
        headroom=headroom,
        bias_bits=bias_bits,
        integer_only=integer_only,
        channel_exponents=bool(profile.options.get("channel_exponents", False)),
        wide=NumberFormat(wide, True, grid) if wide != activation else None,
    )


def _weight_bits(profile: Profile) -> int | None:
    """Fewer than a weight's type has, or ``None``."""
    stated = profile.choice("weight_bits", ("8", "7", "cpu"), "8")
    if stated != "8" and profile.options.get("weight") == "int16":
        raise UsageError(f"weight_bits = {stated!r} is for weights of int8, not int16", where=f"profile {profile.name}")
    return 7 if stated == "7" or (stated == "cpu" and adds_pairs_in_16_bits()) else None
