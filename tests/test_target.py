"""Profiles are checked when they are read, and a target whose vendor is missing says so."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stagekit import targets
from stagekit.cpu import adds_pairs_in_16_bits, computes_bf16, described
from stagekit.errors import UsageError
from stagekit.graph import TensorSpec
from stagekit.target import HostBuffer, Profile
from stagekit.targets import parse_profile

GOOD: dict[str, Any] = {"target": "openvino", "precision": "bf16", "batch": [1, 4], "options": {"threads": 2}}


def parse(**changes: Any) -> Profile:
    return parse_profile({**GOOD, **changes}, "mine", "mine.toml")


def test_a_profile_is_read_as_it_is_written() -> None:
    profile = parse()
    assert (profile.target, profile.device, profile.precision, profile.batch) == ("openvino", "CPU", "bf16", (1, 4))
    assert profile.options == {"threads": 2}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precison": "f32"}, "unknown key 'precison'; did you mean 'precision'"),
        ({"options": {"thread": 2}}, "unknown option 'thread' of openvino; did you mean 'threads'"),
        ({"options": {"threads": "2"}}, "'threads' must be int, got '2'"),
        ({"options": {"threads": True}}, "'threads' must be int, got True"),
        ({"options": {"performance_hint": 1}}, "'performance_hint' must be str, got 1"),
        ({"precision": "f8"}, "precision 'f8' is not one of openvino's: f32, bf16"),
        ({"options": 3}, "must be a table"),
        ({"batch": [4, 1]}, "ascending"),
        ({"batch": [1, 1]}, "ascending"),
        ({"batch": []}, "ascending"),
        ({"batch": [0]}, "from 1 to 1024"),
        ({"batch": [True]}, "from 1 to 1024"),
        ({"batch": 4}, "list of sizes"),
        ({"device": 3}, "device must be a name"),
        ({"target": 3}, "'target' is missing"),
        ({"target": "openvin"}, "no target is called 'openvin'; did you mean 'openvino'"),
    ],
)
def test_what_makes_no_sense_is_refused_and_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(**changes)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_profile_without_a_target_is_refused() -> None:
    with pytest.raises(UsageError, match="'target' is missing"):
        parse_profile({"precision": "f32"}, "mine", "mine.toml")


def test_a_users_profile_is_a_path_and_errors_name_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('target = "onnxruntime"\nbatch = [2]\n')
    assert targets.load_profile(str(mine)) == Profile("mine", "onnxruntime", batch=(2,))
    mine.write_text("target = onnxruntime")
    with pytest.raises(UsageError, match=r"mine\.toml: the profile is not TOML"):
        targets.load_profile(str(mine))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        targets.load_profile(str(tmp_path / "missing.toml"))


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'ort-f32'"):
        targets.load_profile("ort-f23")
    with pytest.raises(UsageError, match="no profile is called 'ov-f32'"):
        targets.load_profile("ov-f32", target="onnxruntime")


def test_an_unknown_target_names_the_nearest() -> None:
    for look_up in (targets.get, targets.shipped_profiles):
        with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
            look_up("onnxruntme")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_every_shipped_profile_is_valid_and_one_is_the_default(name: str) -> None:
    profiles = {stem: targets.load_profile(stem, name) for stem in targets.shipped_profiles(name)}
    assert all(profile.target == name for profile in profiles.values())
    assert targets.default_profile(name) in profiles.values()
    assert targets.default_profile(name).precision == "f32"


def test_a_profiles_digest_counts_what_changes_compiled_bytes_and_nothing_else() -> None:
    target = targets.get("openvino")
    base = parse()
    same = [replace(base, name="other"), parse(options={"threads": 4}), parse(options={})]
    other = [
        parse(precision="f32"),
        parse(batch=[1]),
        parse(device="GPU"),
        parse(options={"performance_hint": "THROUGHPUT"}),
    ]
    assert {p.digest(target) for p in same} == {base.digest(target)}
    assert len({p.digest(target) for p in [base, *other]}) == 5


def test_a_host_buffer_is_what_its_spec_says() -> None:
    spec = TensorSpec("x", "float32", (2, 3))
    assert HostBuffer(spec, np.zeros((2, 3), np.float32)).to_host().shape == (2, 3)
    for wrong in (np.zeros((2, 3)), np.zeros((3, 2), np.float32)):
        with pytest.raises(UsageError, match=r"x: expected float32 \(2, 3\)"):
            HostBuffer(spec, wrong)


def test_the_devices_key_lists_the_instruction_sets_that_matter_in_order() -> None:
    cpuinfo = "processor\t: 0\nflags\t\t: fpu sse4_1 avx2 amx_int8 avx512f mmx\nprocessor\t: 1\nflags\t\t: fpu\n"
    assert described("x86_64", cpuinfo) == "x86_64+amx_int8+avx2+avx512f+sse4_1"
    assert described("aarch64", "Features\t: fp asimd bf16\n") == "aarch64+asimd+bf16"
    assert described("arm64", "") == "arm64"


@pytest.mark.parametrize(
    ("processor", "saturates", "bf16"),
    [
        ("x86_64+avx2+fma", True, False),  # Zen 3, Skylake and before
        ("x86_64+avx2+avx512f", True, False),
        ("x86_64+avx2+avx_vnni", False, False),  # Alder Lake
        ("x86_64+avx2+avx512_bf16+avx512_vnni+avx512f", False, True),  # Zen 4
        ("aarch64+asimd", False, False),
        ("aarch64+asimd+bf16", False, True),
        ("x86_64", True, False),
    ],
)
def test_what_a_processor_does_with_bytes_and_bfloat16(processor: str, saturates: bool, bf16: bool) -> None:
    assert (adds_pairs_in_16_bits(processor), computes_bf16(processor)) == (saturates, bf16)


WITHOUT_THE_VENDOR = """
import importlib.metadata, sys
from importlib.abc import MetaPathFinder
from pathlib import Path

vendor, profile_name = sys.argv[1:]

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == vendor:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
real = importlib.metadata.distribution
def distribution(name):
    if name == vendor:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.distribution = distribution

from stagekit import targets
from stagekit.errors import TargetUnavailable
from stagekit.graph import Graph
from stagekit.target import EngineBlob, silent

target = targets.get(vendor)
profile = targets.load_profile(profile_name)
target.device(profile), target.toolchain(profile)
available = target.probe()
assert not available.build and not available.run and available.devices == () and available.version == ""
assert vendor in available.reason and "pip install" in available.remedy, available
for call in (
    lambda: target.compile(None, (), (), profile, Path("."), silent),
    lambda: target.load(EngineBlob(Path("."), (), (), ()), profile),
    lambda: target.supports(None, profile),
):
    try:
        call()
    except TargetUnavailable as error:
        assert error.exit_code == 3 and error.remedy == available.remedy
    else:
        raise SystemExit("expected TargetUnavailable")
print("said so")
"""


@pytest.mark.parametrize(("vendor", "profile"), [("openvino", "ov-f32"), ("onnxruntime", "ort-f32")])
def test_a_target_whose_vendor_is_missing_says_what_to_install(vendor: str, profile: str) -> None:
    command = [sys.executable, "-c", WITHOUT_THE_VENDOR, vendor, profile]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "said so\n"


def test_looking_targets_up_imports_no_vendor() -> None:
    code = """
import sys
from stagekit import targets
from stagekit.graph import TensorSpec
feature = TensorSpec("x", "float32", ("batch", 8, 4, 4), "NCHW")
for name in targets.entries():
    for profile in targets.shipped_profiles(name):
        loaded = targets.load_profile(profile, name)
        target = targets.get(name)
        target.toolchain(loaded), target.device(loaded)
        target.boundaries(feature, loaded)
print([name for name in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"
