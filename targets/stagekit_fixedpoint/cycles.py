"""The device model: for each layer the largest of compute, loads and store, summed over a frame.

*Compute* counts the array's passes, rounding each direction up (8 x 16 x 16 for a B4096); an image's few channels
are packed with the kernel's columns, as the devices do. *Loads* know the tiling that the on-chip memory forces:
what does not fit is cut into pieces, and the other operand is read again for each; the better of the two orders
is taken. A feature map that fits beside its successor stays on the chip, on devices that keep them.
With several cores busy each has its share of the external memory.

What is fitted and on which rows is said in ``benchmarks/device_model.py``; all else is the vendor's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from stagekit_fixedpoint.device import Machine
from stagekit_fixedpoint.layers import Layer


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer's time in cycles, by what it waits for."""

    name: str
    macs: int
    compute: float
    weights: float
    features: float
    store: float
    overhead: float
    moved: int
    on_chip: int

    @property
    def cycles(self) -> float:
        return max(self.compute, self.weights + self.features + self.store) + self.overhead

    @property
    def bound_by(self) -> str:
        """``compute``, or the largest part of the memory traffic, or ``overhead``."""
        memory = {"weights": self.weights, "features": self.features, "store": self.store}
        largest = max(memory, key=lambda k: memory[k])
        if self.overhead > max(self.compute, sum(memory.values())):
            return "overhead"
        return "compute" if self.compute >= sum(memory.values()) else largest


@dataclass(frozen=True, slots=True)
class Estimate:
    """A frame, modelled for a machine.

    Args:
        latency_ms: of one frame with one core busy.
        fps_single: one thread, one core.
        fps: all cores busy, enough threads to hide the host's part.
        utilization: multiply-accumulates done of those possible, in ``fps``.
        moved: bytes a frame moves to and from external memory.
        on_chip: the most bytes that a layer holds on the chip.
    """

    layers: tuple[LayerCost, ...]
    latency_ms: float
    fps_single: float
    fps: float
    utilization: float
    moved: int
    on_chip: int


def estimate(layers: Sequence[Layer], machine: Machine) -> Estimate:
    """Latency and throughput of a network."""
    alone = [*_frame(layers, machine, busy=1)]
    together = [*_frame(layers, machine, busy=machine.cores)]
    hertz = machine.clock_mhz * 1e6
    latency = sum(c.cycles for c in alone) / hertz + machine.image_us * 1e-6
    fps = machine.cores * hertz / sum(c.cycles for c in together)
    macs = sum(layer.macs for layer in layers)
    return Estimate(
        tuple(alone),
        latency * 1e3,
        1 / latency,
        fps,
        macs * fps / (machine.macs_per_cycle * machine.cores * hertz),
        sum(c.moved for c in alone),
        max((c.on_chip for c in alone), default=0),
    )


def passes(layers: Sequence[Layer], fuses: bool) -> list[tuple[Layer, ...]]:
    """Layers that run as one: an element-wise layer joins the layer before it when it alone reads its output."""
    found: list[tuple[Layer, ...]] = []
    for layer in layers:
        before = found[-1][-1] if found else None
        alone = before is not None and [o.name for o in layers if before.output in o.inputs] == [layer.name]
        if fuses and alone and layer.kernel == (0, 0):
            found[-1] = (*found[-1], layer)
        else:
            found.append((layer,))
    return found


def _frame(layers: Sequence[Layer], machine: Machine, busy: int) -> list[LayerCost]:
    share = machine.bandwidth(busy) * 1e9
    per_cycle = share / (machine.clock_mhz * 1e6)
    costs, resident = [], set[str]()
    groups = passes(layers, machine.fuses_elementwise)
    for index, group in enumerate(groups):
        made = {layer.output for layer in group}
        sizes = {n: s for g in group for n, s in zip(g.inputs, g.input_bytes, strict=True) if n not in made}
        output, output_bytes = group[-1].output, group[-1].output_bytes
        later = [i for i, other in enumerate(groups) if i > index and any(output in g.inputs for g in other)]
        fits = sum(sizes.values()) + output_bytes <= machine.feature_kib * 1024
        stays = machine.keeps_features and fits and bool(later) and later[0] == index + 1
        fetched = {n: 0 if n in resident else s for n, s in sizes.items()}
        weights, features = _traffic(group[0], fetched[group[0].inputs[0]], machine)
        features += sum(s for n, s in fetched.items() if n != group[0].inputs[0])
        stored = 0 if stays and later == [index + 1] else output_bytes
        held = min(group[0].weight_bytes, machine.weight_kib * 1024)
        held += min(sum(sizes.values()) + output_bytes, machine.feature_kib * 1024)
        costs.append(
            LayerCost(
                group[0].name,
                group[0].macs,
                max(_compute(layer, machine) for layer in group),
                weights / per_cycle,
                features / per_cycle,
                stored / per_cycle,
                machine.layer_cycles,
                int(weights + features + stored),
                held,
            )
        )
        resident = {output} if stays else set()
    return costs


def _compute(layer: Layer, machine: Machine) -> float:
    """Cycles of a layer whose data is there."""
    kh, kw = layer.kernel
    if kh == 0:
        elements = max(layer.output_bytes, *layer.input_bytes)
        return elements / (machine.element_gops * 1e9) * machine.clock_mhz * 1e6
    pixels = ceil(layer.height * layer.width / machine.pixels)
    if layer.per_group == 1 and layer.groups > 1:
        passes = ceil(layer.channels / min(machine.input_channels, machine.output_channels)) * kh * kw
    else:
        packed = kw if layer.per_group * 2 <= machine.input_channels else 1
        inner = ceil(layer.per_group * packed / machine.input_channels) * kh * kw / packed
        passes = layer.groups * ceil(layer.channels / layer.groups / machine.output_channels) * ceil(inner)
    return pixels * passes * layer.passes / machine.pipeline_efficiency


def _traffic(layer: Layer, fetched: int, machine: Machine) -> tuple[float, float]:
    """Bytes of weights and features that are loaded, in the better of the two orders of the loops."""
    if not layer.weight_bytes or not fetched:
        return layer.weight_bytes, fetched
    if machine.shared_memory:
        whole = machine.weight_kib * 1024
        if layer.weight_bytes + fetched <= whole:
            return layer.weight_bytes, fetched
        weight_space = feature_space = whole // 4  # halves of halves: one is filled while the other is read
    else:
        weight_space, feature_space = machine.weight_kib * 1024, machine.feature_kib * 1024
    weight_tiles = ceil(layer.weight_bytes / weight_space)
    feature_tiles = ceil(fetched / feature_space)
    features_again = layer.weight_bytes + fetched * weight_tiles
    weights_again = layer.weight_bytes * feature_tiles + fetched
    if features_again <= weights_again:
        return layer.weight_bytes, fetched * weight_tiles
    return layer.weight_bytes * feature_tiles, fetched
