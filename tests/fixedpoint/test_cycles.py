"""The device model: by hand on single layers, against published rows, and what moves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from stagekit_fixedpoint.cycles import estimate
from stagekit_fixedpoint.device import Machine, load_device
from stagekit_fixedpoint.layers import Layer
from stagekit_fixedpoint.lowering import macs
from stagekit_fixedpoint.networks import resnet_layers
from stagekit_fixedpoint.program import Program

from stagekit.graph import Graph
from stagekit.graph.cost import macs as graph_macs
from stagekit.graph.shapes import inferred

PLAIN = Machine(8, 16, 16, 100.0, 512, 512, 1000.0, 1000.0, keeps_features=False)


def conv(ins: int = 64, outs: int = 64, side: int = 16, kernel: int = 1) -> Layer:
    size = side * side
    return Layer(
        "c", ("x",), "y", (ins * size,), outs * size, ins * outs * kernel**2, side, side, ins, outs, (kernel, kernel)
    )


def test_a_full_array_does_all_its_multiplications() -> None:
    found = estimate([conv()], PLAIN)
    assert found.layers[0].compute == 16 * 16 / 8 * 4 * 4
    assert found.layers[0].bound_by == "compute"
    assert found.utilization == pytest.approx(1.0)


@pytest.mark.parametrize(("ins", "outs", "passes"), [(65, 64, 5 * 4), (64, 65, 4 * 5), (16, 16, 1), (1, 1, 1)])
def test_channels_that_do_not_fill_the_array_are_rounded_up(ins: int, outs: int, passes: int) -> None:
    assert estimate([conv(ins, outs)], PLAIN).layers[0].compute == 32 * passes


def test_the_columns_of_an_image_are_packed_with_its_channels() -> None:
    """Three channels of a 7x7 window fill 21 inputs of two passes, instead of 3 in 7."""
    assert estimate([conv(3, 16, 16, 7)], PLAIN).layers[0].compute == 32 * 2 * 7


def test_a_slow_memory_is_what_a_layer_waits_for() -> None:
    slow = replace(PLAIN, memory_gb_s=0.1, core_gb_s=0.1)
    cost = estimate([conv()], slow).layers[0]
    moved = 64 * 64 + 2 * 64 * 256
    assert cost.moved == moved
    assert cost.cycles == pytest.approx(moved)  # 0.1 GB/s at 100 MHz is a byte a cycle
    assert cost.bound_by in ("features", "store")


def test_what_does_not_fit_is_read_again_in_the_cheaper_order() -> None:
    small = replace(PLAIN, weight_kib=1, feature_kib=4)
    layer = conv(64, 64, 16)  # 4 KiB of weights, 16 KiB in
    assert estimate([layer], small).layers[0].moved == 4 * 4096 + 16384 + 16384
    assert estimate([layer], replace(small, weight_kib=4)).layers[0].moved == 4096 + 16384 + 16384


def test_features_that_fit_stay_on_the_chip() -> None:
    chain = [conv(), replace(conv(), name="d", inputs=("y",), output="z")]
    away, kept = (estimate(chain, replace(PLAIN, keeps_features=k)).moved for k in (False, True))
    assert away - kept == 2 * 64 * 256


def test_cores_share_the_memory() -> None:
    one = replace(PLAIN, memory_gb_s=0.2, core_gb_s=0.2)
    assert estimate([conv()], replace(one, cores=2)).fps == pytest.approx(estimate([conv()], one).fps)
    wide = replace(one, memory_gb_s=1000.0, core_gb_s=1000.0)
    assert estimate([conv()], replace(wide, cores=2)).fps == pytest.approx(2 * estimate([conv()], wide).fps)


def test_time_on_the_host_counts_for_one_thread_alone() -> None:
    slow = replace(PLAIN, image_us=1000.0)
    assert estimate([conv()], slow).fps == estimate([conv()], PLAIN).fps
    assert estimate([conv()], slow).latency_ms == pytest.approx(estimate([conv()], PLAIN).latency_ms + 1)


@pytest.mark.parametrize(("depth", "variant", "gmac"), [(50, "v1", 3.86), (50, "v1.5", 4.09), (101, "last", 7.2)])
def test_layer_tables_have_the_published_work(depth: int, variant: str, gmac: float) -> None:
    """8.19, 7.7 and 14.4 GOP are twice these."""
    assert sum(layer.macs for layer in resnet_layers(depth, variant)) / 1e9 == pytest.approx(gmac, abs=0.01)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "depth", "variant", "threads", "published"),
    [
        ("dpu-b4096-zcu104", 50, "v1.5", 1, 84.2),
        ("dpu-b4096-zcu104", 101, "last", 2, 94.7),
        ("dpu-b4096-zcu102", 101, "last", 3, 110.7),
        ("dpu-b1600-ultra96", 50, "v1", 1, 32.5),
        ("nvdla-2048", 50, "v1", 1, 269),
        ("nvdla-256", 50, "v1", 1, 46),
    ],
)
def test_published_rows_that_were_not_fitted(
    device: str, depth: int, variant: str, threads: int, published: float
) -> None:
    found = estimate(resnet_layers(depth, variant), load_device(device).machine)  # type: ignore[arg-type]
    assert (found.fps if threads > 1 else found.fps_single) == pytest.approx(published, rel=0.15)


def test_a_program_has_the_work_of_its_graph(
    programs: Callable[[str, str], Program], graphs: Callable[[str, str], Graph]
) -> None:
    for net in ("residual", "transformer"):
        at = (net, "dpu-b4096-zcu104")
        assert macs(programs(*at)) == graph_macs(inferred(graphs(*at)))
