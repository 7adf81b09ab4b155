"""Device descriptions: what ships can be read, and impossible numbers are named."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from stagekit_fixedpoint import FixedPointTarget
from stagekit_fixedpoint.device import FOLDER, load_device, parse_device
from stagekit_fixedpoint.target import device_of

from stagekit import targets
from stagekit.errors import UsageError


def description() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "dpu-b4096-zcu104.toml").read_text())


@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.toml")))
def test_every_device_has_a_profile_and_the_profile_finds_it(name: str) -> None:
    profile = targets.load_profile(name, "fixedpoint")
    assert device_of(profile).name == name
    assert FixedPointTarget().device(profile) == name


@pytest.mark.parametrize(
    ("device", "macs"),
    [("dpu-b4096-zcu102", 2048), ("dpu-b1600-ultra96", 800), ("nvdla-2048", 2048), ("nvdla-64", 64)],
)
def test_array_sizes_are_the_vendors(device: str, macs: int) -> None:
    assert load_device(device).machine.macs_per_cycle == macs


@pytest.mark.parametrize(
    ("table", "key", "value", "says"),
    [
        ("arithmetic", "activation_bits", 1, "from 2 to 16"),
        ("arithmetic", "activation_bits", 8.5, "must be a int"),
        ("arithmetic", "accumulator_bits", 12, "from 15"),
        ("arithmetic", "accumulator_bits", 64, "to 48"),
        ("arithmetic", "rounding", "half", "not one of"),
        ("arithmetic", "scales", "any", "needs scales"),
        ("arithmetic", "operators", ["convolve"], "did you mean 'conv'"),
        ("arithmetic", "acumulator_bits", 32, "did you mean 'accumulator_bits'"),
        ("machine", "clock_mhz", 0, "positive"),
        ("machine", "cores", -1, "positive"),
        ("machine", "memory_gb_s", float("inf"), "positive"),
        ("machine", "memory_gb_s", float("nan"), "positive"),
        ("machine", "memory_efficiency", 1.5, "at most 1"),
        ("machine", "layer_cycles", -5, "negative"),
        ("machine", "clock_mhz", "fast", "must be a float"),
    ],
)
def test_impossible_numbers_are_named(table: str, key: str, value: Any, says: str) -> None:
    data = description()
    data[table][key] = value
    with pytest.raises(UsageError, match=says) as caught:
        parse_device(data, "mine", "mine.toml")
    assert f"mine.toml, [{table}]" in str(caught.value)


def test_a_missing_key_and_an_unknown_device_are_named() -> None:
    data = description()
    del data["arithmetic"]["style"]
    with pytest.raises(UsageError, match="'style' is missing"):
        parse_device(data, "mine", "mine.toml")
    with pytest.raises(UsageError, match="did you mean 'dpu-b4096-kv260'"):
        load_device("dpu-b4096-kv26")


def test_a_profile_of_the_wrong_width_is_refused() -> None:
    profile = targets.parse_profile(
        {"target": "fixedpoint", "device": "hls-16-6", "precision": "int8"}, "mine", "mine.toml"
    )
    with pytest.raises(UsageError, match="computes in int16"):
        device_of(profile)
