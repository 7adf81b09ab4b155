"""What a compiled program is like: a row for each layer, totals, a roofline, and what images did to it.

Latency and throughput here are *modelled for the device named*, never measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stagekit_fixedpoint import bounds
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.cycles import Estimate, estimate
from stagekit_fixedpoint.device import Device
from stagekit_fixedpoint.layers import layers_of
from stagekit_fixedpoint.program import Program

WIDTH = 48
"""Characters of a roofline's bars."""


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One step.

    Args:
        headroom_bits: accumulator bits that the worst input leaves free; None for steps without a sum.
        saturated, sqnr_db: on images, see :class:`stagekit_fixedpoint.observe.Seen`; None before any was seen.
        cycles: modelled, 0 for steps that only move numbers or run with the step before them.
        bound_by: compute, weights, features, store or overhead.
    """

    name: str
    operator: str
    format_in: str
    format_out: str
    macs: int
    headroom_bits: int | None
    cycles: float
    bound_by: str
    saturated: float | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A program on a device.

    Args:
        macs: on the device; ``device_share`` of all of the graph's.
    """

    device: str
    layers: tuple[LayerRow, ...]
    modelled: Estimate
    macs: int
    device_share: float

    def to_dict(self) -> dict[str, Any]:
        """JSON data for manifests."""
        e = self.modelled
        return {
            "label": f"modelled for {self.device}",
            "latency_ms": e.latency_ms,
            "fps_single": e.fps_single,
            "fps": e.fps,
            "mac_utilization": e.utilization,
            "bytes_moved": e.moved,
            "on_chip_bytes": e.on_chip,
            "macs": self.macs,
            "device_share": self.device_share,
            "host": [row.name for row in self.layers if row.operator == p.Host.__name__],
            "layers": [asdict(row) for row in self.layers],
        }


def report(program: Program, device: Device, device_share: float = 1.0) -> Report:
    """The report before any image was seen."""
    layers = layers_of(program)
    modelled = estimate(layers, device.machine)
    costs, macs = {c.name: c for c in modelled.layers}, {layer.output: layer.macs for layer in layers}
    rows = []
    for step in program.steps:
        limit, cost = bounds.accumulator(program, step), costs.get(step.name)
        rows.append(
            LayerRow(
                step.name,
                type(step).__name__,
                ", ".join(str(program.tensors[n].format) for n in step.inputs),
                str(program.tensors[step.output].format),
                macs.get(step.output, 0),
                None if limit is None else program.accumulator_bits - limit.bits,
                cost.cycles if cost else 0.0,
                cost.bound_by if cost else "",
            )
        )
    return Report(device.name, tuple(rows), modelled, sum(row.macs for row in rows), device_share)


def roofline(found: Report, device: Device) -> str:
    """A picture in characters: for each layer its operations a byte and how near it comes to the device's roof."""
    machine = device.machine
    peak = 2 * machine.macs_per_cycle * machine.clock_mhz / 1e3
    bandwidth = machine.bandwidth(busy=1)
    lines = [f"modelled for {device.name}: peak {peak:.0f} GOP/s, memory {bandwidth:.1f} GB/s, one core"]
    for cost in found.modelled.layers:
        if not cost.macs:
            continue
        intensity = 2 * cost.macs / max(cost.moved, 1)
        roof = min(peak, intensity * bandwidth)
        reached = 2 * cost.macs * machine.clock_mhz / 1e3 / cost.cycles
        bar = "#" * round(WIDTH * reached / peak)
        roof_at = min(round(WIDTH * roof / peak), WIDTH - 1)
        picture = "".join("|" if i == roof_at else bar[i : i + 1] or " " for i in range(WIDTH))
        lines.append(f"{cost.name[:28]:28} {intensity:8.1f} OP/B {reached:7.0f} GOP/s [{picture}] {cost.bound_by}")
    return "\n".join(lines)
