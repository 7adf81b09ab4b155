"""The device model against published figures; which rows it was fitted on is said for each.

    python benchmarks/device_model.py [--json] [--refit]

Four numbers of the DPU are fitted, by least squares on four rows (KV260: ResNet-50 single and multi-thread,
ResNet-101 multi-thread; ZCU102: ResNet-50 multi-thread) and hold for all DPUs: pipeline and memory efficiency,
cycles to start a layer, host time for a frame. Nothing is fitted for NVDLA. ``constant_fps`` is the rival: one
utilisation for all, fitted by least squares on the same rows. All fps are modelled or published, none measured.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

import click
import numpy as np
from stagekit_fixedpoint.cycles import estimate
from stagekit_fixedpoint.device import Machine, load_device
from stagekit_fixedpoint.layers import Layer
from stagekit_fixedpoint.networks import resnet_layers

NETWORKS = {
    "resnet50 v1": resnet_layers(50, "v1"),
    "resnet50 v1.5": resnet_layers(50, "v1.5"),
    "resnet101": resnet_layers(101, "last"),
}

FIT = {
    ("dpu-b4096-kv260", "resnet50 v1.5", "single"),
    ("dpu-b4096-kv260", "resnet50 v1.5", "multi"),
    ("dpu-b4096-kv260", "resnet101", "multi"),
    ("dpu-b4096-zcu102", "resnet50 v1.5", "multi"),
}

PUBLISHED: tuple[tuple[str, str, str, float], ...] = (
    # Vitis AI model zoo.
    ("dpu-b4096-zcu104", "resnet50 v1.5", "single", 84.2),
    ("dpu-b4096-zcu104", "resnet50 v1.5", "multi", 157.7),
    ("dpu-b4096-zcu104", "resnet101", "single", 49.5),
    ("dpu-b4096-zcu104", "resnet101", "multi", 94.7),
    ("dpu-b4096-zcu102", "resnet50 v1.5", "single", 78.9),
    ("dpu-b4096-zcu102", "resnet50 v1.5", "multi", 173.5),
    ("dpu-b4096-zcu102", "resnet101", "single", 46.4),
    ("dpu-b4096-zcu102", "resnet101", "multi", 110.7),
    ("dpu-b4096-kv260", "resnet50 v1.5", "single", 84.8),
    ("dpu-b4096-kv260", "resnet50 v1.5", "multi", 88.7),
    ("dpu-b4096-kv260", "resnet101", "single", 49.9),
    ("dpu-b4096-kv260", "resnet101", "multi", 51.1),
    # The older Caffe model: a latency of 13.29 ms; 32.5 and 33.5 fps.
    ("dpu-b4096-zcu104", "resnet50 v1", "single", 1000 / 13.29),
    ("dpu-b1600-ultra96", "resnet50 v1", "single", 32.5),
    ("dpu-b1600-ultra96", "resnet50 v1", "multi", 33.5),
    # NVDLA's performance estimator.
    ("nvdla-2048", "resnet50 v1", "single", 269.0),
    ("nvdla-1024", "resnet50 v1", "single", 153.0),
    ("nvdla-512", "resnet50 v1", "single", 93.0),
    ("nvdla-256", "resnet50 v1", "single", 46.0),
    ("nvdla-64", "resnet50 v1", "single", 7.3),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A published figure and what two models say to it."""

    model: str
    device: str
    threads: str
    published_fps: float
    modelled_fps: float
    constant_fps: float
    used_in_fit: bool

    @property
    def error(self) -> float:
        return abs(self.modelled_fps / self.published_fps - 1)

    @property
    def constant_error(self) -> float:
        return abs(self.constant_fps / self.published_fps - 1)


def modelled(layers: list[Layer], machine: Machine, threads: str) -> float:
    found = estimate(layers, machine)
    return found.fps_single if threads == "single" else found.fps


def peak(layers: list[Layer], machine: Machine, threads: str) -> float:
    """Frames a second if every multiplier worked in every cycle."""
    cores = machine.cores if threads == "multi" else 1
    return machine.macs_per_cycle * machine.clock_mhz * 1e6 * cores / sum(layer.macs for layer in layers)


def rows() -> list[Row]:
    ideal = {
        key: peak(NETWORKS[key[1]], load_device(key[0]).machine, key[2])
        for *key_, _ in PUBLISHED
        for key in [tuple(key_)]
    }
    ratios = np.array([ideal[(d, n, t)] / fps for d, n, t, fps in PUBLISHED if (d, n, t) in FIT])
    utilization = float(ratios.sum() / (ratios**2).sum())  # least squares of the relative error
    return [
        Row(
            network,
            device,
            threads,
            round(fps, 2),
            round(modelled(NETWORKS[network], load_device(device).machine, threads), 2),
            round(utilization * ideal[(device, network, threads)], 2),
            (device, network, threads) in FIT,
        )
        for device, network, threads, fps in PUBLISHED
    ]


def hindsight() -> float:
    """The mean error on the test rows of the constant that is best on these very rows."""
    test = [(d, n, t, f) for d, n, t, f in PUBLISHED if (d, n, t) not in FIT]
    ratios = np.array([peak(NETWORKS[n], load_device(d).machine, t) / f for d, n, t, f in test])
    return float(min(np.abs(u * ratios - 1).mean() for u in np.linspace(0.3, 0.9, 601)))


def refit() -> dict[str, float]:
    """The four numbers again, by Gauss-Newton from the ones in the files."""
    chosen = [p for p in PUBLISHED if p[:3] in FIT]
    names, steps = ("pipeline_efficiency", "layer_cycles", "memory_efficiency", "image_us"), (0.01, 100.0, 0.01, 20.0)
    start = load_device(chosen[0][0]).machine
    x = np.array([float(getattr(start, name)) for name in names])

    def errors(at: np.ndarray) -> np.ndarray:
        changed = dict(zip(names, at.tolist(), strict=True)) | {"layer_cycles": float(at[1])}
        machines = [replace(load_device(d).machine, **changed) for d, *_ in chosen]  # type: ignore[arg-type]
        return np.array([modelled(NETWORKS[n], m, t) / f - 1 for (_, n, t, f), m in zip(chosen, machines, strict=True)])

    for _ in range(8):
        base = errors(x)
        slopes = np.stack([(errors(x + np.eye(4)[i] * s) - base) / s for i, s in enumerate(steps)], axis=1)
        x = np.clip(x - np.linalg.lstsq(slopes, base, rcond=None)[0], 0, [1, 1e5, 1, 1e5])
    return dict(zip(names, x.round(4).tolist(), strict=True))


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--refit", "fit", is_flag=True, help="Print the fitted numbers, found again from the rows.")
def main(as_json: bool, fit: bool) -> None:
    if fit:
        click.echo(json.dumps(refit()))
        return
    table = rows()
    test = [r for r in table if not r.used_in_fit]
    ours, constant = (float(np.mean([getattr(r, k) for r in test])) for k in ("error", "constant_error"))
    if as_json:
        summary = {"mean_error": ours, "constant_mean_error": constant, "constant_hindsight_mean_error": hindsight()}
        click.echo(json.dumps({"rows": [asdict(r) for r in table], **summary}, indent=2))
        return
    for r in table:
        mark = "fit " if r.used_in_fit else "test"
        click.echo(
            f"{mark} {r.device:18} {r.model:14} {r.threads:6} published {r.published_fps:7.1f}"
            f" modelled {r.modelled_fps:7.1f} ({100 * (r.modelled_fps / r.published_fps - 1):+5.1f} %)"
            f" constant {r.constant_fps:7.1f}"
        )
    click.echo(
        f"mean error on the {len(test)} rows not used in the fit: {100 * ours:.1f} % modelled,"
        f" {100 * constant:.1f} % constant ({100 * hindsight():.1f} % with the constant best in hindsight)"
    )


if __name__ == "__main__":
    main()
