"""Vision Transformers: published counts, torch's own encoder layer, sizes, position embeddings, names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stagekit.errors import UsageError, WeightsError
from stagekit.models.registry import build, create
from stagekit.models.vit import Embedding, TransformerUnit, ViT
from stagekit.models.vit_weights import grid_side

TINY = ViT("tiny", width=16, depth=3, heads=4, patch=4, grid=5, cuts=("unit1",), size=(20, 20), layer_scale=True)


def frames(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)


def test_vit_l_has_the_published_parameters_at_512() -> None:
    """By hand: patches, class token, 1025 positions, 24 units (qkv, projection, mlp, two norms), the final norm.

    The paper prints 304.15 M. The final norm's 2048 parameters do not show at that precision.
    """
    width = 1024
    unit = (3 * width * width + 3 * width) + (width * width + width) + (8 * width * width + 5 * width) + 4 * width
    by_hand = (768 * width + width) + width + 1025 * width + 24 * unit + 2 * width
    with torch.device("meta"):
        backbone = create("vit_l16")

    count = sum(parameter.numel() for parameter in backbone.parameters())

    print(f"vit_l16: {count} parameters")
    assert count == by_hand == 304_149_504
    assert round(count / 1e6, 2) == 304.15


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_l16", ["stem", "unit8", "unit12", "unit16", "unit24"]),
        ("vit_b16", ["stem", "unit4", "unit6", "unit8", "unit12"]),
        ("vit_s14", ["stem", "unit4", "unit6", "unit8", "unit12"]),
    ],
)
def test_default_cuts_serve_one_two_and_three_equal_stages(name: str, expected: list[str]) -> None:
    with torch.device("meta"):
        backbone = create(name)

    assert [boundary.name for boundary in backbone.boundaries] == expected
    assert all(boundary.kind == "tokens" and boundary.prefix == 1 for boundary in backbone.boundaries)
    depth = int(expected[-1].removeprefix("unit"))
    for stages in (1, 2, 3):
        assert {f"unit{depth * stage // stages}" for stage in range(1, stages + 1)} <= set(expected)


def test_a_unit_computes_what_torchs_encoder_layer_does() -> None:
    unit = TransformerUnit(32, heads=4, layer_scale=False)
    reference = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    theirs = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = unit.state_dict()
    reference.load_state_dict(
        {new + part: state[old + part] for new, old in theirs.items() for part in ("weight", "bias")}
    )
    x = torch.randn(2, 7, 32)

    torch.testing.assert_close(unit(x), reference(x), rtol=1e-4, atol=1e-5)


def test_tokens_are_the_class_token_and_the_patches_row_by_row() -> None:
    embedding = Embedding(width=8, patch=4, grid=3)
    nn.init.normal_(embedding.cls_token)
    nn.init.normal_(embedding.pos_embed)
    image = torch.randn(2, 3, 12, 12)

    tokens = embedding(image)

    assert tokens.shape == (2, 10, 8)
    torch.testing.assert_close(tokens[1, 0], embedding.cls_token[0, 0] + embedding.pos_embed[0, 0])
    patch = image[1, :, 4:8, 8:12]  # second row, third column
    assert embedding.proj.bias is not None
    by_hand = (embedding.proj.weight * patch).sum((1, 2, 3)) + embedding.proj.bias + embedding.pos_embed[0, 6]
    torch.testing.assert_close(tokens[1, 6], by_hand, rtol=1e-4, atol=1e-5)


def test_the_final_norm_belongs_to_the_last_segment() -> None:
    last = build(TINY)(frames(20, 20))[-1]

    torch.testing.assert_close(last.mean(-1), torch.zeros(last.shape[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.var(-1, unbiased=False), torch.ones(last.shape[:2]), atol=1e-2, rtol=0)


def test_positions_are_resized_to_other_grids_by_the_bicubic_kernel() -> None:
    """One row of positions, from 4 to 6 cells: Keys' kernel with a = -0.75, half-pixel centres, clamped edges."""

    def keys(distance: float) -> float:
        d, a = abs(distance), -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    embedding = Embedding(width=1, patch=1, grid=4)
    stored = np.random.default_rng(0).normal(size=(4, 4))
    with torch.no_grad():
        embedding.pos_embed[0, 1:, 0] = torch.tensor(stored.reshape(-1), dtype=torch.float32)

    found = embedding.offsets(6, 5)[0, 1:, 0].detach().numpy().reshape(6, 5)

    def resize(size: int) -> np.ndarray:
        matrix = np.zeros((size, 4))
        for out in range(size):
            centre = (out + 0.5) * 4 / size - 0.5
            base = int(np.floor(centre))
            for tap in range(base - 1, base + 3):
                matrix[out, min(max(tap, 0), 3)] += keys(centre - tap)
        return matrix

    np.testing.assert_allclose(found, resize(6) @ stored @ resize(5).T, atol=1e-5)


def test_a_trainable_position_embedding_gets_gradients_at_other_sizes() -> None:
    backbone = build(TINY, size=(12, 24)).requires_grad_(True)

    backbone(frames(12, 24))[0].sum().backward()

    gradient = dict(backbone.named_parameters())["segments.0.stem.pos_embed"].grad
    assert gradient is not None
    # Every resized position was added once for each of two frames, and the kernel's rows sum to one.
    assert gradient.sum().item() == pytest.approx(2 * (1 + 3 * 6) * 16, rel=1e-4)


@pytest.mark.parametrize("size", [(225, 224), (224, 230)])
def test_a_size_that_is_no_multiple_of_the_patch_names_the_nearest(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="224 or 238"), torch.device("meta"):
        create("vit_s14", size=size)


def test_frames_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(UsageError, match=r"use a height of 4$"):
        build(TINY)(frames(2, 20))


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 198, 8), (1, 1024, 8), (65,), ()])
def test_positions_that_are_no_square_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match="square grid"):
        grid_side(torch.zeros(shape), "file")


def test_a_position_embedding_at_fault_names_its_file() -> None:
    with pytest.raises(WeightsError) as caught:
        TINY.fitted({"stem.pos_embed": torch.zeros(1, 198, 16)}, "deit.pth")

    assert caught.value.where == "deit.pth"


@pytest.mark.parametrize(
    "theirs",
    [
        # timm and DINOv2
        {
            "cls_token": "stem.cls_token",
            "pos_embed": "stem.pos_embed",
            "patch_embed.proj.weight": "stem.proj.weight",
            "blocks.0.norm1.weight": "unit1.norm1.weight",
            "blocks.0.attn.qkv.weight": "unit1.attn.qkv.weight",
            "blocks.10.attn.proj.bias": "unit11.attn.proj.bias",
            "blocks.0.ls1.gamma": "unit1.ls1.gamma",
            "blocks.0.mlp.fc2.weight": "unit1.mlp.fc2.weight",
            "norm.bias": "norm.bias",
            "head.weight": None,
            "mask_token": None,
        },
        # mmseg and mmpretrain
        {
            "patch_embed.projection.bias": "stem.proj.bias",
            "layers.0.ln1.weight": "unit1.norm1.weight",
            "layers.0.attn.attn.in_proj_weight": "unit1.attn.qkv.weight",
            "layers.0.attn.attn.in_proj_bias": "unit1.attn.qkv.bias",
            "layers.0.attn.attn.out_proj.weight": "unit1.attn.proj.weight",
            "layers.3.attn.qkv.weight": "unit4.attn.qkv.weight",
            "layers.0.ffn.layers.0.0.weight": "unit1.mlp.fc1.weight",
            "layers.0.ffn.layers.1.bias": "unit1.mlp.fc2.bias",
            "ln1.weight": "norm.weight",
            "decode_head.conv_seg.weight": None,
        },
        # torchvision
        {
            "class_token": "stem.cls_token",
            "conv_proj.weight": "stem.proj.weight",
            "encoder.pos_embedding": "stem.pos_embed",
            "encoder.layers.encoder_layer_11.ln_2.bias": "unit12.norm2.bias",
            "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": "unit1.attn.qkv.weight",
            "encoder.layers.encoder_layer_0.self_attention.out_proj.weight": "unit1.attn.proj.weight",
            "encoder.layers.encoder_layer_0.mlp.0.weight": "unit1.mlp.fc1.weight",
            "encoder.layers.encoder_layer_0.mlp.linear_2.bias": "unit1.mlp.fc2.bias",
            "encoder.ln.weight": "norm.weight",
            "heads.head.weight": None,
        },
        # nothing of ours: kept as it is, so that it is reported
        {"register_tokens": "register_tokens", "blocks.0.attn.q_norm.weight": "blocks.0.attn.q_norm.weight"},
    ],
)
def test_names_of_other_libraries_are_mapped(theirs: dict[str, str | None]) -> None:
    ours = TINY.translate({name: torch.zeros(1) for name in theirs}, "file")

    assert list(ours) == [name for name in theirs.values() if name is not None]


def test_query_key_and_value_stored_apart_are_joined_in_that_order() -> None:
    prefix = "encoder.layer.2.attention.attention."
    state = {f"{prefix}{part}.weight": torch.full((2, 2), i) for i, part in enumerate(("key", "value", "query"))}

    ours = TINY.translate(state, "file")

    assert list(ours) == ["unit3.attn.qkv.weight"]
    assert ours["unit3.attn.qkv.weight"][:, 0].tolist() == [2, 2, 0, 0, 1, 1]
