"""How long the exact emulation of a device takes beside ONNX Runtime in float32 on the same cores.

    python benchmarks/emulator.py [--json] [--profile NAME] [--threads N]

ResNet-50 (v1.5) at 224 x 224, one image, seeded weights (values do not change the time). The fast interpreter's
output is compared with the reference interpreter's on the last image. Runs alternate between the two, so that
a change of clock meets both; the ratio is that of the medians.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import click
import numpy as np
import onnxruntime
from stagekit_fixedpoint import reference
from stagekit_fixedpoint.dense import quantise
from stagekit_fixedpoint.device import load_device
from stagekit_fixedpoint.engine import to_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.lowering import lowered
from stagekit_fixedpoint.networks import resnet

from stagekit.cpu import instruction_sets, usable_cores
from stagekit.graph import Graph
from stagekit.quant.scheme import scheme_of
from stagekit.targets import load_profile

PROFILES = ("dpu-b4096-zcu104", "hls-16-6")


@dataclass(frozen=True, slots=True)
class Row:
    """One profile's emulation beside float32; times in milliseconds."""

    model: str
    size: int
    target: str
    profile: str
    threads: int
    float_ms: float
    emulated_ms: float
    ratio_to_float: float
    mismatched_values: int
    paths: dict[str, int]


def measure(graph: Graph, profile: str, threads: int, repeats: int) -> Row:
    device = load_device(profile)
    random = np.random.default_rng(0)
    images = [random.standard_normal((1, 3, 224, 224), np.float32) for _ in range(2)]
    quantised = quantise(graph, [{"x": images[0]}], scheme_of(load_profile(profile)))
    program = lowered(quantised, device).program
    fast = Fast(program, threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph.proto().SerializeToString(), options, ["CPUExecutionProvider"])
    stored = {"x": to_stored(images[1], program.tensors["x"])}
    calls: tuple[Callable[[], Any], ...] = (lambda: session.run(None, {"x": images[1]}), lambda: fast.run(stored))
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 2):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if turn >= 2:
                kept.append(1e3 * (time.perf_counter() - start))
    exact = reference.run(program, {"x": stored["x"].astype(np.int64)})
    wrong = sum(int((fast.run(stored)[name] != exact[name]).sum()) for name in program.outputs)
    plain, emulated = median(times[0]), median(times[1])
    return Row(
        "resnet50",
        224,
        "fixedpoint",
        profile,
        threads,
        round(plain, 2),
        round(emulated, 2),
        round(emulated / plain, 3),
        wrong,
        dict(Counter(c.path for c in fast.choices)),
    )


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--profile", "profiles", multiple=True, default=PROFILES, show_default=True, help="Profiles to emulate.")
@click.option("--threads", default=usable_cores(), show_default=True, help="Threads for both.")
@click.option("--repeats", default=30, show_default=True, help="Timed calls of each.")
def main(as_json: bool, profiles: tuple[str, ...], threads: int, repeats: int) -> None:
    graph = resnet(50, "v1.5")
    rows = [measure(graph, profile, threads, repeats) for profile in profiles]
    if as_json:
        click.echo(json.dumps({"device": instruction_sets(), "rows": [asdict(row) for row in rows]}, indent=2))
        return
    for row in rows:
        click.echo(
            f"{row.profile}: {row.emulated_ms} ms emulated, {row.float_ms} ms float32, ratio {row.ratio_to_float},"
            f" {row.mismatched_values} values differ from the reference; steps {row.paths}"
        )


if __name__ == "__main__":
    main()
