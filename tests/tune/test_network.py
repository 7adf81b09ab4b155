"""Networks from recipes: which parts stand where, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stagekit.errors import UsageError
from stagekit.models.backbone import Backbone
from stagekit.models.heads import PPMHead, PUPHead
from stagekit.tune.network import create_backbone, create_network
from stagekit.tune.recipe import Recipe
from stagekit.tune.sections import BackboneSection, MethodSection

PRIOR = torch.tensor([0.6, 0.3, 0.1])


def test_all_prompts_every_boundary_up_to_the_last_read(backbone: Backbone, recipe: Callable[..., Recipe]) -> None:
    chosen = recipe(method={"prompts": "all", "widths": None}, head={"reads": ["stem", "stage2"]})
    network = create_network(chosen, backbone, 3, PRIOR)
    assert network.prompted == ("stem", "stage1", "stage2")
    assert [spm.width for spm in network.spm_by_boundary.values()] == [32, 32, 32]
    assert network.head.reads == ("stem", "stage2")


def test_the_options_of_the_ablations_reach_the_spms(backbone: Backbone, recipe: Callable[..., Recipe]) -> None:
    options = {"pdc": "single", "prompt": "additive", "norm": "group", "activation": "relu"}
    network = create_network(recipe(method=options), backbone, 3, PRIOR)
    plain = create_network(recipe(), backbone, 3, PRIOR)
    for spm, other in zip(network.spm_by_boundary.values(), plain.spm_by_boundary.values(), strict=True):
        assert (spm.prompt, spm.width) == ("additive", 8)
        assert {type(m) for m in spm.modules()} >= {torch.nn.GroupNorm, torch.nn.ReLU}
        assert spm.state_dict().keys() != other.state_dict().keys()


@pytest.mark.parametrize(("kind", "type_"), [("ppm", PPMHead), ("pup", PUPHead)])
def test_a_heads_width_may_be_chosen(backbone: Backbone, recipe: Callable[..., Recipe], kind: str, type_: type) -> None:
    head = create_network(recipe(head={"kind": kind, "reads": ["stage3"], "width": 8}), backbone, 3, PRIOR).head
    assert isinstance(head, type_)
    assert head.state_dict()["classifier.weight"].shape == (3, 8, 1, 1)


def test_a_head_reads_the_last_boundary_unless_told_otherwise(
    backbone: Backbone, recipe: Callable[..., Recipe]
) -> None:
    assert create_network(recipe(head={"reads": []}), backbone, 3, PRIOR).head.reads == ("stage3",)


def test_auxiliary_heads_learn_and_are_not_part_of_what_is_exported(
    backbone: Backbone, recipe: Callable[..., Recipe]
) -> None:
    network = create_network(recipe(head={"auxiliary": ["stage2_1"]}), backbone, 3, PRIOR)
    assert [head.reads for head in network.auxiliary] == [("stage2_1",)]
    frames = torch.zeros(2, 24, 32, 3, dtype=torch.uint8)
    assert len(network.train()(frames).auxiliary) == 1
    assert network.eval()(frames).auxiliary == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"auxiliary": ["stage8_1"]}}, "no unit 'stage8_1'"),
        ({"method": {"prompts": ["stage1", "stage9"]}}, "no boundary 'stage9'"),
        ({"method": {"prompts": ["stage3", "stage1"]}}, "in the order of the backbone"),
        ({"head": {"reads": ["stage7"]}}, "no boundary 'stage7'"),
        ({"head": {"reads": ["stage1"]}}, "nothing reads what this prompt changes"),
        ({"head": {"kind": "ligt"}}, "did you mean 'light'"),
        ({"head": {"kind": "ppm"}}, "reads one boundary"),
        ({"method": {"widths": [6, 6]}}, "PDC|width|multiple|groups"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    backbone: Backbone, recipe: Callable[..., Recipe], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        create_network(recipe(**changes), backbone, 3, PRIOR)


def test_scratch_starts_from_the_seed_and_needs_no_weights() -> None:
    section = BackboneSection(name="lite0", weights="packaged", size=(32, 32))
    first, again, other = (create_backbone(section, MethodSection(kind="scratch"), seed) for seed in (0, 0, 1))
    frames = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    assert torch.equal(first(frames)[-1], again(frames)[-1])
    assert not torch.equal(first(frames)[-1], other(frames)[-1])


def test_weights_that_no_package_carries_are_a_message() -> None:
    with pytest.raises(UsageError, match="no installed package carries weights of resnet50"):
        create_backbone(BackboneSection(name="resnet50"), MethodSection(), 0)
