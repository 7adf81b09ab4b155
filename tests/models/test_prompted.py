"""The prompted network: what sees a prompt, what learns, and what may be cached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stagekit.errors import UsageError
from stagekit.models.backbone import Backbone, BoundaryInfo
from stagekit.models.heads import LightHead, PUPHead
from stagekit.models.loss import segmentation_loss
from stagekit.models.presets import create_spms
from stagekit.models.prompted import PromptedNetwork, tap
from stagekit.models.spm import SPM
from stagekit.models.tokens import as_map

PRIOR = torch.tensor([0.6, 0.3, 0.1])


def boundary(backbone: Backbone, name: str) -> BoundaryInfo:
    return next(b for b in backbone.boundaries if b.name == name)


def network(backbone: Backbone, prompted: list[str], reads: list[str], *, tuned: bool = True) -> PromptedNetwork:
    """A network with random prompts (``tuned``), or those of step 0."""
    torch.manual_seed(5)
    spms = create_spms([boundary(backbone, name) for name in prompted], 3, PRIOR, "small")
    if tuned:
        for spm in spms.values():
            nn.init.normal_(spm.prompt_branch.leave.weight, std=0.5)
    head = LightHead([boundary(backbone, name) for name in reads], 3, width=8)
    return PromptedNetwork(backbone, spms, head).eval()


@pytest.mark.parametrize("prompted", [["stem"], ["stage2"], ["stem", "stage1", "stage2", "stage3"]])
def test_at_step_0_the_network_is_the_head_only_network(
    conv_backbone: Backbone, frames: Tensor, prompted: list[str]
) -> None:
    new = network(conv_backbone, prompted, ["stage1", "stage3"], tuned=False)
    head_only = PromptedNetwork(conv_backbone, {}, new.head).eval()
    output = new(frames)
    assert torch.equal(output.logits, head_only(frames).logits)
    assert len(output.interim) == len(prompted)
    assert head_only(frames).interim == []


def test_at_step_0_a_token_network_is_the_head_only_network(token_backbone: Backbone, frames: Tensor) -> None:
    new = network(token_backbone, ["stem", "unit1"], ["unit3"], tuned=False)
    assert torch.equal(new(frames).logits, PromptedNetwork(token_backbone, {}, new.head).eval()(frames).logits)


def test_segments_and_head_see_the_prompted_feature_and_maps_skip_unprompted_boundaries(
    conv_backbone: Backbone, frames: Tensor
) -> None:
    net = network(conv_backbone, ["stage1", "stage3"], ["stem", "stage1", "stage2", "stage3"])
    first, second = net.spms
    stem = conv_backbone.segment(0, frames)
    stage1 = first(conv_backbone.segment(1, stem))
    stage2 = conv_backbone.segment(2, stage1.prompted)
    stage3 = second(conv_backbone.segment(3, stage2), stage1.semantic)  # skips stage2
    expected = net.head([stem, stage1.prompted, stage2, stage3.prompted])
    output = net(frames)
    assert torch.equal(output.logits, expected)
    assert [tuple(logits.shape) for logits in output.interim] == [(2, 3, 8, 12), (2, 3, 4, 6)]
    assert torch.equal(output.interim[1], stage3.logits)


def test_a_token_network_prompts_the_grid_and_keeps_the_class_token(token_backbone: Backbone, frames: Tensor) -> None:
    net = network(token_backbone, ["stem", "unit1"], ["unit3"])
    tokens, semantic = token_backbone.segment(0, frames), None
    for index, spm in enumerate(net.spms, start=1):
        grid = tokens[:, 1:].transpose(1, 2).reshape(2, 12, 4, 6)
        prompted, semantic, _ = spm(grid, semantic)
        tokens = torch.cat([tokens[:, :1], prompted.flatten(2).transpose(1, 2)], dim=1)
        tokens = token_backbone.segment(index, tokens)
    expected = net.head([as_map(tokens, token_backbone.boundaries[2], (4, 6))])
    torch.testing.assert_close(net(frames).logits, expected)


@pytest.mark.parametrize(
    ("prompted", "reads", "prefix"),
    [
        (["stage2"], ["stem", "stage3"], ("stem", "stage2")),
        (["stem"], ["stage1", "stage3"], ("stem",)),
        (["stage2", "stage3"], ["stage3"], ("stage2",)),
        ([], ["stem", "stage2"], ("stem", "stage2")),
    ],
)
def test_the_rest_needs_the_prefix_alone(
    conv_backbone: Backbone, frames: Tensor, prompted: list[str], reads: list[str], prefix: tuple[str, ...]
) -> None:
    net = network(conv_backbone, prompted, reads)
    assert net.prefix_boundaries == prefix
    kept = net.prefix(frames)
    raw = dict(zip([b.name for b in conv_backbone.boundaries], conv_backbone(frames), strict=True))
    assert all(torch.equal(x, raw[name]) for x, name in zip(kept, prefix, strict=True))
    cached, whole = net.forward_rest(kept), net(frames)  # 32 x 48, the backbone's default
    assert torch.equal(cached.logits, whole.logits)
    assert all(torch.equal(a, b) for a, b in zip(cached.interim, whole.interim, strict=True))


def test_a_cached_token_prefix_of_another_frame_size_needs_that_size(token_backbone: Backbone) -> None:
    net = network(token_backbone, ["unit1"], ["unit3"])
    frames = torch.randint(0, 256, (1, 40, 24, 3), dtype=torch.uint8)
    kept = net.prefix(frames)
    assert torch.equal(net.forward_rest(kept, (40, 24)).logits, net(frames).logits)
    with pytest.raises(UsageError, match="frame size"):
        net.forward_rest(kept)


def test_segments_behind_the_last_boundary_read_do_not_run(conv_backbone: Backbone, frames: Tensor) -> None:
    net = network(conv_backbone, ["stem"], ["stage1"])
    ran: list[str] = []
    for name, segment in conv_backbone.segments.named_children():
        segment.register_forward_hook(lambda *_, name=name: ran.append(name))
    net(frames)
    assert ran == ["0", "1"]


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_statistics(conv_backbone: Backbone, frames: Tensor) -> None:
    net = network(conv_backbone, ["stem", "stage2"], ["stage3"]).freeze_backbone().train()
    before = {name: value.clone() for name, value in conv_backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        segmentation_loss(net(frames), torch.zeros(2, 32, 48, dtype=torch.uint8)).backward()
        optimizer.step()
    assert all(p.grad is None for p in conv_backbone.parameters())
    assert all(p.grad is not None for p in [*net.spms.parameters(), *net.head.parameters()])
    assert all(torch.equal(value, before[name]) for name, value in conv_backbone.state_dict().items())
    assert net.head.training
    assert not any(module.training for module in conv_backbone.modules())


def test_full_tuning_may_hold_the_statistics_while_weights_learn(conv_backbone: Backbone, frames: Tensor) -> None:
    net = network(conv_backbone, [], ["stage3"]).hold_statistics().train()
    net(frames).logits.sum().backward()
    assert all(p.grad is not None for p in conv_backbone.parameters())
    assert not any(module.training for module in conv_backbone.modules())


def test_without_freezing_the_backbone_trains(conv_backbone: Backbone) -> None:
    assert all(module.training for module in network(conv_backbone, [], ["stage3"]).train().modules())


def test_auxiliary_heads_read_units_inside_stages_in_training_alone(token_backbone: Backbone, frames: Tensor) -> None:
    heads = [PUPHead(tap(token_backbone, unit), 3, 2, width=8, scale=4, layer_norm=True) for unit in ("unit1", "unit2")]
    plain = network(token_backbone, ["stem"], ["unit3"])
    net = PromptedNetwork(token_backbone, plain.spm_by_boundary, plain.head, heads)
    net.freeze_backbone().train()
    output = net(frames)
    assert [tuple(logits.shape) for logits in output.auxiliary] == [(2, 3, 64, 96)] * 2
    output.auxiliary[1].sum().backward()  # through the frozen unit 2 back to the prompt
    gradient = net.spm_by_boundary["stem"].prompt_branch.leave.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    assert net.eval()(frames).auxiliary == []
    assert torch.equal(net(frames).logits, plain.eval()(frames).logits)


def test_a_tap_outside_a_cached_prefix_still_fires(token_backbone: Backbone, frames: Tensor) -> None:
    heads = [PUPHead(tap(token_backbone, unit), 3, 1, width=8) for unit in ("unit1", "unit2")]
    plain = network(token_backbone, ["unit1"], ["unit3"])
    net = PromptedNetwork(token_backbone, plain.spm_by_boundary, plain.head, heads).train()
    assert len(net(frames).auxiliary) == 2
    assert len(net.forward_rest(net.prefix(frames)).auxiliary) == 1  # unit2; unit1 lies in the prefix


def test_parts_that_do_not_fit_are_refused(conv_backbone: Backbone) -> None:
    def spm(channels: int, classes: int = 3, prior: Tensor | None = PRIOR) -> SPM:
        return SPM(channels, classes, 8, prior=prior)

    head = LightHead([boundary(conv_backbone, "stage2")], 3)
    cases: list[tuple[dict[str, SPM], str]] = [
        ({"stage9": spm(8)}, "no boundary 'stage9'"),
        ({"stem": spm(9)}, "stem: the SPM takes 9 channels, the boundary has 8"),
        ({"stem": spm(8, 2, torch.tensor([0.5, 0.5]))}, "the SPM has 2 classes, the head 3"),
        ({"stem": spm(8, prior=None)}, "only the first prompted boundary"),
        ({"stage1": spm(12), "stem": spm(8, prior=None)}, "stem: only the first prompted boundary"),
        ({"stem": spm(8), "stage1": spm(12)}, "stage1: only the first prompted boundary"),
        ({"stage3": spm(20)}, "stage3: nothing reads what this prompt changes"),
    ]
    for spms, message in cases:
        with pytest.raises(UsageError, match=message):
            PromptedNetwork(conv_backbone, spms, head)
    with pytest.raises(UsageError, match="the head takes 13 channels, the boundary has 12"):
        PromptedNetwork(conv_backbone, {}, LightHead([BoundaryInfo("stage1", 13, 4)], 3))
    with pytest.raises(UsageError, match="no unit 'unit7'"):
        tap(conv_backbone, "unit7")
    with pytest.raises(UsageError, match="does not run"):
        PromptedNetwork(conv_backbone, {}, head, [PUPHead(tap(conv_backbone, "stage3_1"), 3)])
