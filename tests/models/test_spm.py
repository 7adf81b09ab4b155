"""The SPM against equations 1 to 4 in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from stagekit.errors import UsageError
from stagekit.models.backbone import BoundaryInfo
from stagekit.models.counts import parameters
from stagekit.models.spm import SPM
from stagekit.models.tokens import as_map, prompt

Array = NDArray[np.float64]
C, S, WIDTH = 10, 5, 8
PRIOR = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])


def scrambled(spm: SPM) -> SPM:
    """Random weights everywhere, the zero convolution included, so that every path counts."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in spm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return spm


# The reference: float64 numpy, from the equations, on a dict of weights.
def pointwise(x: Array, weights: dict[str, Array], name: str) -> Array:
    return np.einsum("oi,bihw->bohw", weights[f"{name}.weight"][:, :, 0, 0], x) + weights[f"{name}.bias"][:, None, None]


def dilated(x: Array, weights: dict[str, Array], name: str, rate: int) -> Array:
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    _, _, height, width = x.shape
    out = np.zeros((len(x), len(kernel), height, width)) + bias[:, None, None]
    for y in range(height):
        for column in range(width):
            for i in range(3):
                for j in range(3):
                    a, b = y + (i - 1) * rate, column + (j - 1) * rate
                    if 0 <= a < height and 0 <= b < width:
                        out[:, :, y, column] += x[:, :, a, b] @ kernel[:, :, i, j].T
    return out


def branch(x: Array, weights: dict[str, Array], name: str) -> Array:
    x = pointwise(x, weights, f"{name}.enter")
    quarters = np.split(x, 4, axis=1)
    parts = [dilated(q, weights, f"{name}.context.branches.{i}", 2**i) for i, q in enumerate(quarters)]
    x = pointwise(np.concatenate(parts, axis=1), weights, f"{name}.context.fuse")
    return pointwise(x, weights, f"{name}.leave")


def bilinear(x: Array, height: int, width: int) -> Array:
    def matrix(n: int, m: int) -> Array:
        rows = np.zeros((m, n))
        for i in range(m):
            position = max((i + 0.5) * n / m - 0.5, 0)
            low = min(int(position), n - 1)
            rows[i, low] += 1 - (position - low)
            rows[i, min(low + 1, n - 1)] += position - low
        return rows

    return np.einsum("yi,bcij,xj->bcyx", matrix(x.shape[2], height), x, matrix(x.shape[3], width))


def reference(spm: SPM, feature: Array, semantic: Array) -> tuple[Array, Array, Array]:
    weights = {name: value.detach().double().numpy() for name, value in spm.named_parameters()}
    semantic = bilinear(semantic, *feature.shape[2:])
    logits = branch(np.concatenate([feature, semantic], axis=1), weights, "semantic_branch")
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    current = exponentials / exponentials.sum(axis=1, keepdims=True)
    weight = branch(np.concatenate([feature, current], axis=1), weights, "prompt_branch")
    return feature + feature * weight, current, logits


def close(outputs: tuple[torch.Tensor, ...], expected: tuple[Array, ...]) -> None:
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("semantic_size", [(6, 7), (12, 14), (3, 4)])
def test_a_later_spm_is_the_equations(semantic_size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    spm = scrambled(SPM(C, S, WIDTH))
    feature, semantic = torch.randn(2, C, 6, 7), torch.rand(2, S, *semantic_size).softmax(dim=1)
    close(spm(feature, semantic), reference(spm, feature.double().numpy(), semantic.double().numpy()))


@pytest.mark.parametrize("folded", [False, True])
def test_the_first_spm_sees_the_class_frequencies_at_every_position(folded: bool) -> None:
    torch.manual_seed(0)
    spm = scrambled(SPM(C, S, WIDTH, prior=PRIOR))
    feature = torch.randn(2, C, 6, 7)
    everywhere = np.broadcast_to(PRIOR.double().numpy()[:, None, None], (2, S, 6, 7))
    expected = reference(spm, feature.double().numpy(), everywhere)
    if folded:  # as exported: M_0 lies in a bias
        spm.fold_prior()
        assert spm.semantic_branch.enter.in_channels == C
    close(spm(feature), expected)


def test_m_0_is_the_given_distribution() -> None:
    spm = SPM(C, S, WIDTH, prior=PRIOR)
    assert torch.equal(spm.state_dict()["prior"], PRIOR)
    assert "prior" not in SPM(C, S, WIDTH).state_dict()
    assert "prior" not in dict(spm.named_parameters())


@pytest.mark.parametrize("prompted_by", ["multiplicative", "additive"])
def test_a_new_spm_changes_nothing(prompted_by: str) -> None:
    spm = SPM(C, S, WIDTH, prior=PRIOR, prompt=prompted_by)  # type: ignore[arg-type]
    feature = torch.randn(2, C, 6, 7)
    assert torch.equal(spm(feature).prompted, feature)


def test_an_additive_prompt_does_not_depend_on_the_feature_as_a_factor() -> None:
    spm = scrambled(SPM(C, S, WIDTH, prior=PRIOR, prompt="additive"))
    weight = spm.prompt_branch
    feature = torch.randn(1, C, 4, 4)
    output = spm(feature)
    torch.testing.assert_close(output.prompted - feature, weight(torch.cat([feature, output.semantic], 1)))


def test_the_map_that_goes_on_is_the_softmax_of_the_logits_for_the_loss() -> None:
    output = scrambled(SPM(C, S, WIDTH, prior=PRIOR))(torch.randn(1, C, 4, 4))
    torch.testing.assert_close(output.semantic, output.logits.softmax(dim=1))
    torch.testing.assert_close(output.semantic.sum(dim=1), torch.ones(1, 4, 4))


def test_at_the_first_step_the_zero_convolution_and_the_semantic_branch_learn() -> None:
    spm = SPM(C, S, WIDTH, prior=PRIOR)
    output = spm(torch.randn(2, C, 6, 7))
    (output.prompted.square().mean() + output.logits.square().mean()).backward()
    assert spm.prompt_branch.leave.weight.grad is not None
    assert spm.prompt_branch.leave.weight.grad.abs().max() > 0
    assert spm.semantic_branch.enter.weight.grad is not None
    assert spm.semantic_branch.enter.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("c", "s", "width"), [(64, 150, 224), (2048, 150, 104), (16, 17, 32), (1024, 2, 256)])
def test_weights_and_biases_number_as_the_formula_says(c: int, s: int, width: int) -> None:
    with torch.device("meta"):
        spm = SPM(c, s, width)
        single = SPM(c, s, width, mode="single")
    assert parameters(spm, biases=False) == 3 * width * (c + s) + 6.5 * width**2
    assert parameters(spm) - parameters(spm, biases=False) == 6 * width + c + s
    assert parameters(single, biases=False) == 3 * width * (c + s) + 18 * width**2


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)])
def test_norm_and_activation_stand_behind_entry_and_context_of_both_branches(norm: str, kind: type) -> None:
    spm = SPM(C, S, WIDTH, norm=norm, activation="gelu")  # type: ignore[arg-type]
    assert sum(isinstance(m, kind) for m in spm.modules()) == 4
    assert sum(isinstance(m, nn.GELU) for m in spm.modules()) == 4
    assert not any(isinstance(m, kind | nn.GELU) for m in SPM(C, S, WIDTH).modules())


def test_the_class_token_passes_through_and_the_rest_is_prompted_as_a_map() -> None:
    spm = scrambled(SPM(C, S, WIDTH))
    boundary = BoundaryInfo("unit4", C, 16, "tokens", prefix=1)
    grid = torch.randn(2, C, 3, 5)
    tokens = torch.cat([torch.randn(2, 1, C), grid.flatten(2).transpose(1, 2)], dim=1)
    semantic = torch.rand(2, S, 3, 5).softmax(dim=1)
    output, on_map = prompt(spm, boundary, (3, 5), tokens, semantic), spm(grid, semantic)
    assert torch.equal(output.prompted[:, 0], tokens[:, 0])
    torch.testing.assert_close(output.prompted[:, 1:], on_map.prompted.flatten(2).transpose(1, 2))
    torch.testing.assert_close(output.semantic, on_map.semantic)


def test_tokens_without_a_prefix_come_back_whole() -> None:
    boundary = BoundaryInfo("unit4", C, 16, "tokens")
    tokens = torch.randn(2, 15, C)
    assert torch.equal(prompt(SPM(C, S, WIDTH, prior=PRIOR), boundary, (3, 5), tokens, None).prompted, tokens)


def test_tokens_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unit4: 16 tokens are not 1 \+ 4 x 5"):
        as_map(torch.randn(2, 16, C), BoundaryInfo("unit4", C, 16, "tokens", 1), (4, 5))


@pytest.mark.parametrize("prior", [torch.ones(S), torch.tensor([1.5, -0.5, 0, 0, 0]), torch.full((4,), 0.25)])
def test_a_prior_that_is_no_distribution_over_the_classes_is_refused(prior: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="class frequencies"):
        SPM(C, S, WIDTH, prior=prior)


def test_the_semantic_map_is_given_to_every_spm_but_the_first() -> None:
    feature, semantic = torch.randn(1, C, 4, 4), torch.rand(1, S, 4, 4)
    with pytest.raises(ValueError, match="needs the semantic map"):
        SPM(C, S, WIDTH)(feature)
    with pytest.raises(ValueError, match="takes none"):
        SPM(C, S, WIDTH, prior=PRIOR)(feature, semantic)


@pytest.mark.parametrize("option", ["norm", "activation", "mode", "prompt"])
def test_an_unknown_option_names_those_that_exist(option: str) -> None:
    with pytest.raises(UsageError, match=r"unknown .*'nonsense'"):
        SPM(C, S, WIDTH, **{option: "nonsense"})  # type: ignore[arg-type]
