"""Made-up results, for tests of everything that comes after measuring."""

from __future__ import annotations

import numpy as np

from stagekit.bench.results import (
    Accuracy,
    BaselineRow,
    CallTimes,
    DeployFacts,
    DeviceFacts,
    Figure,
    Memory,
    Noise,
    NoiseProbe,
    Result,
    Roof,
    Samples,
    ScalingRow,
    ScenarioResult,
)

CLASSES = (("water", (0, 90, 181)), ("forest", (0, 104, 55)))


def made(
    name: str, median: float = 0.005, miou: float = 0.6, cpu: str = "Some CPU", target: str = "onnxruntime"
) -> Result:
    """Results of a deployment with this median latency (seconds) and accuracy."""
    rng = np.random.default_rng(0)
    latency = np.sort(rng.lognormal(np.log(median), 0.02, 201))
    latency = latency * (median / np.median(latency))
    rng.shuffle(latency)
    issued = np.concatenate([[0.0], np.cumsum(latency)[:-1]])
    samples = Samples(
        issued=tuple(issued.tolist()),
        latency=tuple(latency.tolist()),
        queued=(1e-5,) * len(latency),
        request=(0,) * len(latency),
    )
    shares = {"stem": 0.3, "stage1": 0.4, "landcover/spm0": 0.1, "landcover/head": 0.2}
    calls = tuple(
        CallTimes(
            label=label,
            adapter="/" in label,
            calls=201,
            batches=201,
            shared=201 if "/" not in label else 0,
            sizes={1: 201},
            median=share * median,
            p90=1.1 * share * median,
            total=201 * share * median,
            macs=round(1e8 * share),
            bytes=100_000,
        )
        for label, share in shares.items()
    )
    figures = {
        "p50": Figure(value=median, unit="s", low=0.98 * median, high=1.02 * median),
        "p90": Figure(value=1.03 * median, unit="s"),
        "p99": Figure(value=1.06 * median, unit="s"),
        "samples_per_second": Figure(value=1 / median, unit="1/s"),
    }
    probe = NoiseProbe(share=0.99, rate=1e9)
    return Result(
        started="2026-01-01T00:00:00+00:00",
        command=("stagekit", "bench", f"{name}.deploy"),
        versions={"stagekit": "0.1.0", target: "1.0"},
        device=DeviceFacts(cpu=cpu, flags=("avx2",), cores=2, machine="x86_64", memory=8 << 30),
        deployment=DeployFacts(
            name=name,
            target=target,
            profile=f"{target}-f32",
            precision="f32",
            device="CPU",
            toolchain=f"{target} 1.0",
            backbone="ab" * 32,
            frame=(224, 224),
            tasks={"landcover": CLASSES},
        ),
        mix=("1 x landcover",),
        noise=Noise(before=probe, after=probe, spread=0.01, noisy=False),
        memory=Memory(before=100 << 20, opened=140 << 20, peak=150 << 20, engines=12 << 20),
        scenarios=(ScenarioResult(scenario="SingleStream", samples=samples, figures=figures, calls=calls, valid=True),),
        accuracy=(
            Accuracy(
                task="landcover",
                data="landcover",
                split="test",
                images=8,
                miou=Figure(value=miou, unit=""),
                dice=Figure(value=miou + 0.1, unit=""),
                accuracy=Figure(value=0.8, unit=""),
                per_class={"water": {"iou": 0.9, "dice": 0.95}, "forest": {"iou": 2 * miou - 0.9, "dice": None}},
            ),
        ),
        baseline=(
            BaselineRow(
                task="landcover",
                staged=(median,) * 5,
                uncut=(median / 1.1,) * 5,
                ratio=Figure(value=1.1, unit="", low=1.08, high=1.12),
                agreement=Figure(value=1.0, unit=""),
                uncut_bytes=12 << 20,
            ),
        ),
        scaling=tuple(
            ScalingRow(
                tasks=n,
                shared_seconds=Figure(
                    value=median * (0.7 + 0.3 * n), unit="s", kind="measured" if n < 3 else "modelled"
                ),
                separate_seconds=Figure(value=median * n, unit="s", kind="measured" if n < 3 else "modelled"),
                shared_bytes=Figure(value=(11 + n) * 1e6, unit="B", kind="measured" if n < 3 else "modelled"),
                separate_bytes=Figure(value=12e6 * n, unit="B", kind="modelled"),
            )
            for n in (1, 2, 4, 8)
        ),
        roof=Roof(
            macs_per_second=Figure(value=1e11, unit="1/s"),
            bytes_per_second=Figure(value=1e10, unit="B/s"),
        ),
    )
