"""The Verilog processing element against the arithmetic specification, bit for bit, in Icarus Verilog."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import stagekit_fixedpoint
from stagekit_fixedpoint.arithmetic import ROUNDINGS, Format, Requantize, Rescale, saturate, wrap
from stagekit_fixedpoint.device import FOLDER, Arithmetic, load_device

RTL = Path(stagekit_fixedpoint.__file__).parent / "rtl"
VECTORS = 400
DEVICES = sorted(path.stem for path in FOLDER.glob("*.toml"))

pytestmark = [
    pytest.mark.rtl,
    pytest.mark.skipif(
        shutil.which("iverilog") is None,
        reason="Icarus Verilog is not installed: apt-get install iverilog",
    ),
]


def vectors(a: Arithmetic, random: np.random.Generator) -> list[str]:
    """Random and extreme sums, each with the specification's result."""
    act, weight, out, acc = (
        Format(a.activation_bits),
        Format(a.weight_bits),
        Format(a.activation_bits),
        Format(a.accumulator_bits),
    )
    lines = []
    for index in range(VECTORS):
        terms = int(random.integers(1, 40))
        extreme = index % 3 == 0
        x, w = (
            random.choice([f.lowest, f.highest], terms) if extreme else random.integers(f.lowest, f.highest + 1, terms)
            for f in (act, weight)
        )
        zero_in = int(random.integers(act.lowest, act.highest + 1)) if a.zero_points else 0
        reach = acc.highest if a.accumulator_overflow != "forbid" and index % 5 == 0 else 2 ** (acc.bits - 4)
        bias = int(random.integers(-reach, reach + 1)) if index % 4 else int(random.integers(-300, 300))
        if a.style == "shift":
            multiplier, shift = 1, int(random.integers(-3, 24))
        else:
            multiplier = int(random.integers(2 ** (a.multiplier_bits - 1), 2**a.multiplier_bits))
            shift = int(random.integers(a.multiplier_bits, a.multiplier_bits + 24))
        zero_out = int(random.integers(out.lowest, out.highest + 1)) if a.zero_points else 0
        low = zero_out if index % 2 else out.lowest
        stage = Requantize(
            Rescale((multiplier,), (shift,), a.rounding, a.style), out, zero_out, low, out.highest, a.overflow
        )
        total = int(((x - zero_in) * w).sum()) + bias
        total = int(saturate(total, acc) if a.accumulator_overflow == "saturate" else wrap(total, acc))
        numbers = [terms, bias, multiplier, shift, zero_out, low, out.highest, int(stage(total))]
        pairs = np.stack([x - zero_in, w], axis=1).reshape(-1)
        lines.append(" ".join(map(str, [*numbers, *pairs.tolist()])))
    return lines


def simulate(a: Arithmetic, lines: list[str], folder: Path) -> str:
    """What the testbench prints."""
    (folder / "vectors.txt").write_text("\n".join(lines) + "\n")
    parameters = {
        "ACT_BITS": a.activation_bits,
        "W_BITS": a.weight_bits,
        "ACC_BITS": a.accumulator_bits,
        "ACC_GUARD": 12 if a.accumulator_overflow == "saturate" else 0,
        "OUT_BITS": a.activation_bits,
        "OUT_WRAP": int(a.overflow == "wrap"),
        "ROUNDING": ROUNDINGS.index(a.rounding),
        "DOUBLE": int(a.style == "double"),
    }
    command = ["iverilog", "-g2012", "-s", "testbench", "-o", str(folder / "bench")]
    command += [f"-Ptestbench.{name}={value}" for name, value in parameters.items()]
    subprocess.run([*command, str(RTL / "processing_element.v"), str(RTL / "testbench.v")], check=True)
    run = ["vvp", str(folder / "bench"), f"+vectors={folder / 'vectors.txt'}"]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", DEVICES)
def test_the_processing_element_computes_what_the_specification_says(name: str, tmp_path: Path) -> None:
    a = load_device(name).arithmetic
    lines = vectors(a, np.random.default_rng(7))
    assert simulate(a, lines, tmp_path) == f"vectors {VECTORS} wrong 0"


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_rounding_and_overflow_agrees(rounding: str, overflow: str, tmp_path: Path) -> None:
    a = Arithmetic(
        8, 8, 24, "any", "single", rounding, overflow=overflow, accumulator_overflow="wrap", multiplier_bits=15
    )  # type: ignore[arg-type]
    lines = vectors(a, np.random.default_rng(8))
    assert simulate(a, lines, tmp_path) == f"vectors {VECTORS} wrong 0"


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    """The testbench itself can fail."""
    a = load_device("dpu-b4096-zcu104").arithmetic
    first, *rest = vectors(a, np.random.default_rng(9))
    fields = first.split()
    fields[7] = str((int(fields[7]) + 129) % 256 - 128)
    assert simulate(a, [" ".join(fields), *rest], tmp_path).endswith(f"vectors {VECTORS} wrong 1")
