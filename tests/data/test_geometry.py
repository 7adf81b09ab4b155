"""Frames and the way back: shapes, borders, identity, and agreement with torch and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stagekit.data.geometry import Box, Geometry, Resize
from stagekit.errors import ImageError, UsageError

sizes = st.integers(1, 70)
resizes = st.sampled_from(["stretch", "letterbox", "crop"])


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=300, deadline=None)
@given(sizes, sizes, sizes, sizes, resizes)
def test_every_size_becomes_a_frame_and_comes_back(
    height: int, width: int, rows: int, columns: int, resize: Resize
) -> None:
    frame, placement = Geometry(rows, columns, resize).apply(noise(height, width, 3))
    assert frame.shape == (rows, columns, 3)
    assert frame.dtype == np.uint8
    assert placement.labels_to_image(noise(rows, columns)).shape == (height, width)
    logits = noise(3, 5, 4).astype(np.float32)
    scores = placement.logits_to_image(logits)
    assert scores.shape == (3, height, width)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (3, 2000)])
def test_extreme_aspect_ratios_work(resize: Resize, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 200, dtype=np.uint8)
    frame, placement = Geometry(64, 48, resize, fill=7).apply(image)
    shown = placement.frame_box.of(frame)
    assert shown.size > 0
    assert (shown == 200).all()
    back = placement.labels_to_image(np.full((64, 48), 3, dtype=np.uint8))
    assert back.shape == shape
    assert (placement.image_box.of(back) == 3).all()


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_an_image_of_the_frames_size_is_not_touched(resize: Resize) -> None:
    image, labels = noise(33, 47, 3), noise(33, 47, seed=1)
    geometry = Geometry(33, 47, resize)
    frame, placement = geometry.apply(image)
    assert np.array_equal(frame, image)
    assert np.array_equal(placement.labels_to_image(labels), labels)
    assert np.array_equal(geometry.apply_to_labels(labels), labels)
    logits = np.random.default_rng(2).normal(size=(4, 33, 47)).astype(np.float32)
    assert np.array_equal(placement.logits_to_image(logits), logits)


@settings(max_examples=300, deadline=None)
@given(sizes, sizes, st.integers(8, 64), st.integers(8, 64), st.integers(1, 20), st.integers(1, 20))
def test_the_border_of_a_letterbox_never_reaches_the_image(
    height: int, width: int, rows: int, columns: int, cell_rows: int, cell_columns: int
) -> None:
    placement = Geometry(rows, columns, "letterbox").place(height, width)
    labels = np.full((rows, columns), 9, dtype=np.uint8)
    placement.frame_box.of(labels)[:] = 1
    assert (placement.labels_to_image(labels) == 1).all()

    # Cells centred in the border shout; cells centred in the image say 1.
    box = placement.frame_box
    y = (np.arange(cell_rows) + 0.5) * rows / cell_rows
    x = (np.arange(cell_columns) + 0.5) * columns / cell_columns
    row_in = (y >= box.top) & (y < box.top + box.height)
    column_in = (x >= box.left) & (x < box.left + box.width)
    if row_in.any() and column_in.any():
        logits = np.where(row_in[:, None] & column_in, 1, 1e6).astype(np.float32)[None]
        assert (placement.logits_to_image(logits) == 1).all()


def test_a_letterbox_is_centred_and_filled() -> None:
    frame, placement = Geometry(100, 100, "letterbox", fill=114).apply(np.full((50, 200, 3), 255, dtype=np.uint8))
    assert placement.frame_box == Box(37, 0, 25, 100)
    assert (frame[37:62] == 255).all()
    assert (frame[:37] == 114).all()
    assert (frame[62:] == 114).all()


def test_a_letterboxs_labels_outside_the_image_are_ignored() -> None:
    labels = Geometry(8, 8, "letterbox").apply_to_labels(np.full((4, 8), 2, dtype=np.uint8))
    assert (labels[2:6] == 2).all()
    assert (labels[:2] == 255).all()
    assert (labels[6:] == 255).all()


def test_a_crop_shows_the_middle_and_leaves_the_rest_unlabelled() -> None:
    image = np.zeros((10, 30, 3), dtype=np.uint8)
    image[:, 10:20] = 50
    frame, placement = Geometry(5, 5, "crop").apply(image)
    assert placement.image_box == Box(0, 10, 10, 10)
    assert (frame == 50).all()
    back = placement.labels_to_image(np.full((5, 5), 4, dtype=np.uint8))
    assert (back[:, 10:20] == 4).all()
    assert (back[:, :10] == 255).all()
    assert (back[:, 20:] == 255).all()
    scores = placement.logits_to_image(np.ones((2, 5, 5), dtype=np.float32))
    assert (scores[:, :, 10:20] == 1).all()
    assert scores.sum() == 2 * 100
    assert np.array_equal(placement.logits_to_labels(np.ones((2, 5, 5), dtype=np.float32)) == 255, back == 255)


def test_stretched_frames_are_pillows_bilinear() -> None:
    image = noise(90, 60, 3)
    frame, _ = Geometry(31, 77).apply(image)
    assert np.array_equal(frame, np.asarray(Image.fromarray(image).resize((77, 31), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(
    ("cells", "image"), [((8, 8), (64, 64)), ((16, 12), (37, 91)), ((60, 50), (20, 23)), ((1, 3), (9, 9))]
)
def test_logits_are_interpolated_as_torch_does(cells: tuple[int, int], image: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(size=(5, *cells)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], size=image, mode="bilinear")[0].numpy()
    got = Geometry(64, 48).place(*image).logits_to_image(logits)
    np.testing.assert_allclose(got, expected, atol=2e-5)


@settings(max_examples=100, deadline=None)
@given(sizes, sizes, st.integers(1, 9), st.integers(1, 9), st.sampled_from(["stretch", "letterbox"]))
def test_nearest_labels_are_those_of_the_half_pixel_rule(
    height: int, width: int, rows: int, columns: int, resize: Resize
) -> None:
    labels = noise(rows, columns)
    placement = Geometry(rows, columns, resize).place(height, width)
    box, back = placement.frame_box, placement.labels_to_image(labels)
    for y in range(height):
        for x in range(width):
            row = box.top + int((y + 0.5) * box.height / height)
            column = box.left + int((x + 0.5) * box.width / width)
            assert back[y, x] == labels[row, column]


def test_labels_survive_a_round_trip_through_a_larger_frame() -> None:
    labels = noise(21, 34)
    for resize in ("stretch", "letterbox"):
        geometry = Geometry(100, 120, resize)
        assert np.array_equal(geometry.place(21, 34).labels_to_image(geometry.apply_to_labels(labels)), labels)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_labels_from_logits_are_the_arg_max_however_the_rows_are_cut(
    resize: Resize, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = np.random.default_rng(3).normal(size=(6, 9, 7)).astype(np.float32)
    placement = Geometry(72, 56, resize).place(61, 133)
    expected = placement.logits_to_image(logits).argmax(axis=0)
    seen = placement.image_box.of(np.ones((61, 133), dtype=bool))
    for chunk in (1, 6 * 133 * 7, 1 << 24):
        monkeypatch.setattr("stagekit.data.geometry._CHUNK", chunk)
        got = placement.logits_to_labels(logits)
        assert np.array_equal(placement.image_box.of(got), placement.image_box.of(expected))
        assert (got == 255).sum() == got.size - seen.size


def test_keys_name_the_function_and_manifests_restore_it() -> None:
    keys = {g.key() for g in (Geometry(2, 3), Geometry(3, 2), Geometry(2, 3, "crop"), Geometry(2, 3, "letterbox"))}
    assert len(keys) == 4
    assert Geometry(2, 3, "letterbox", 1).key() != Geometry(2, 3, "letterbox", 2).key()
    assert Geometry(2, 3, fill=1).key() == Geometry(2, 3, fill=2).key()
    for geometry in (Geometry(2, 3), Geometry(512, 256, "letterbox", 114)):
        assert Geometry.from_dict(geometry.to_dict()) == geometry


@pytest.mark.parametrize(
    "stated",
    [
        {"height": 0, "width": 4},
        {"height": 4},
        {"height": 4, "width": 4, "resize": "squash"},
        {"height": 4, "width": 4, "fill": 256},
        {"height": 4, "width": 4, "padding": 1},
        {"height": "4", "width": 4},
        {"height": True, "width": 4},
    ],
)
def test_a_senseless_geometry_is_refused(stated: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Geometry.from_dict(stated)


def test_arrays_of_another_form_are_refused() -> None:
    with pytest.raises(ImageError, match="uint8"):
        Geometry(4, 4).apply(np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ImageError, match="expected labels of the frame"):
        Geometry(4, 4).place(8, 8).labels_to_image(np.zeros((8, 8), dtype=np.uint8))
