"""Parameters and multiply-accumulates beside those that the paper prints (docs name them; M is 10^6)."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import nn

from stagekit.errors import UsageError
from stagekit.models.backbone import BoundaryInfo
from stagekit.models.counts import macs, parameters
from stagekit.models.heads import create_head, setr_auxiliary_heads
from stagekit.models.presets import PRESETS, create_spms, width_for
from stagekit.models.spm import SPM

LAST = BoundaryInfo("stage4", 2048, 8)
# ResNet's five boundaries and, of "+1" and "+2", two more inside stage 3.
RESNET = (64, 256, 512, 1024, 2048, 1024, 1024)


def millions(module: nn.Module, *, norms: bool = False) -> float:
    return parameters(module, norms=norms) / 1e6


def spms(preset: str, channels: tuple[int, ...], classes: int) -> list[float]:
    """Cumulative count in millions, weights and biases."""
    with torch.device("meta"):
        parts = [SPM(c, classes, width_for(preset, c)) for c in channels]
    return list(accumulate(millions(part) for part in parts))


@pytest.mark.parametrize(("name", "classes", "printed"), [("ppm", 150, 23.15), ("ppm", 6, 23.07), ("pup", 2, 5.90)])
def test_heads_have_the_papers_counts(name: str, classes: int, printed: float) -> None:
    # Convolution weights and the classifier's bias; BatchNorm is not counted.
    with torch.device("meta"):
        assert round(millions(create_head(name, [LAST], classes)), 2) == printed


def test_setr_pup_has_the_papers_count() -> None:
    # The main head and its three training-only heads; here BatchNorm's and LayerNorm's scale and shift do count.
    boundary = BoundaryInfo("unit24", 1024, 16, "tokens", 1)
    with torch.device("meta"):
        main = create_head("setr-pup", [boundary], 150)
        auxiliary = nn.ModuleList(setr_auxiliary_heads([boundary] * 3, 150))
    everything = nn.ModuleList([main, auxiliary])
    assert round(millions(everything, norms=True), 2) == 13.14
    assert round(millions(everything), 2) == 13.13  # which is how norms are known to be in the paper's figure


def test_param_matched_resnet_spms_come_near_the_printed_counts() -> None:
    printed = [0.48, 1.07, 1.78, 2.36, 3.11, 3.69, 4.27]
    ours = spms("param-matched", RESNET, 150)
    assert [round(x, 2) for x in ours] == [0.47, 1.06, 1.77, 2.35, 3.11, 3.69, 4.27]
    assert ours == pytest.approx(printed, abs=0.015)


def test_param_matched_vit_spms_come_near_the_printed_counts() -> None:
    assert width_for("param-matched", 1024, "tokens") == 132
    ours = spms("param-matched", (1024,) * 3, 150)
    assert ours == pytest.approx([0.58, 1.16, 1.74], abs=0.01)
    assert ours == pytest.approx([0.59, 1.17, 1.76], abs=0.03)


@pytest.mark.parametrize(("classes", "printed", "ours"), [(6, 2.22, 2.72), (2, 2.54, 2.71)])
def test_no_preset_reproduces_vaihingen_and_medical(classes: int, printed: float, ours: float) -> None:
    # The printed figures contradict each other: fewer classes (2) can hardly need more parameters than more (6) do.
    assert round(spms("param-matched", RESNET[:5], classes)[-1], 2) == ours
    for preset in PRESETS:
        assert abs(spms(preset, RESNET[:5], classes)[-1] - printed) > 0.05, preset


def test_the_papers_own_width_contradicts_its_counts() -> None:
    assert [round(x, 2) for x in spms("paper", RESNET[:5], 150)][-1] == 5.72  # 3.11 printed


@pytest.mark.parametrize("channels", [16, 64, 256, 384, 512, 768, 1024, 2048])
def test_aligned_widths_suit_hardware_and_never_cost_more_than_the_papers_spm(channels: int) -> None:
    width = width_for("aligned", channels)
    assert width % 32 == 0
    assert 3 * width * channels + 6.5 * width**2 <= 0.6e6


def test_aligned_widths_of_a_resnet() -> None:
    assert [width_for("aligned", c) for c in RESNET[:5]] == [256, 224, 192, 128, 64]


def test_small_widths_are_those_that_worked_on_efficientnet_lite0_and_vit_s() -> None:
    assert [width_for("small", c) for c in (16, 24, 40, 112, 320, 384)] == [32, 32, 48, 64, 64, 64]


def test_a_preset_says_what_it_does_not_know() -> None:
    with pytest.raises(UsageError, match="no map boundary of 320 channels"):
        width_for("param-matched", 320)
    with pytest.raises(UsageError, match="one of paper, param-matched, aligned, small"):
        width_for("tiny", 320)


def test_only_the_first_spm_made_from_a_preset_holds_the_prior() -> None:
    boundaries = [BoundaryInfo("stem", 16, 2), BoundaryInfo("stage2", 24, 4)]
    made = create_spms(boundaries, 2, torch.tensor([0.9, 0.1]), "small", mode="single")
    assert [(name, spm.width, spm.first) for name, spm in made.items()] == [("stem", 32, True), ("stage2", 32, False)]
    assert made["stem"].semantic_branch.context.mode == "single"


@pytest.mark.parametrize(("preset", "printed"), [("paper", 40), ("param-matched", 26)])
def test_five_spms_at_512_pixels_cost_what_the_method_page_says(preset: str, printed: float) -> None:
    # Giga multiply-accumulates at output stride 8: two boundaries at 128 x 128, three at 64 x 64.
    total = 0
    for channels, side in zip(RESNET[:5], (128, 128, 64, 64, 64), strict=True):
        with torch.device("meta"):
            spm = SPM(channels, 150, width_for(preset, channels))
        total += macs(spm, torch.empty(1, channels, side, side), torch.empty(1, 150, side, side))
    assert round(total / 1e9) == printed


@pytest.mark.parametrize(("name", "classes", "printed"), [("ppm", 150, 78), ("pup", 2, 68)])
def test_heads_at_512_pixels_cost_what_the_method_page_says(name: str, classes: int, printed: float) -> None:
    with torch.device("meta"):
        head = create_head(name, [LAST], classes)
    assert round(head.macs(512, 512) / 1e9) == printed


def test_counting_leaves_a_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout()).eval())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert macs(module, torch.randn(2, 3, 5, 5)) == 2 * 9 * 3 * 4 * 9
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [m.training for m in module.modules()] == [True, True, True, False, False]
    assert parameters(module) == 108 + 4 + 8
    assert parameters(module, norms=False) == 108 + 4
    assert parameters(module, norms=False, biases=False) == 108
