"""Published data sets: classes, splits and sizes of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stagekit.data.images import read_image
from stagekit.data.layouts import coco_stuff, open_dataset, vessels
from stagekit.data.layouts.reader import Published
from stagekit.data.tiling import Tiled

from .drawn import HEIGHT, WIDTH, draw_vaihingen_release, drawn, halves, numbers, picture, save


def test_ade20k_numbers_its_classes_from_one(tmp_path: Path) -> None:
    dataset = drawn("ade20k", tmp_path)
    assert np.array_equal(dataset.read("ADE_val_00000001").mask, numbers(255, 0, 1, 149))
    assert len(dataset.classes.names) == 150
    assert [dataset.classes.names[i] for i in (0, 7, 149)] == ["wall", "bed", "flag"]
    assert dataset.class_frequencies("train")[[0, 1, 2, 149]] == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])


def test_coco_stuff_drops_the_classes_that_no_annotation_has(tmp_path: Path) -> None:
    converted = drawn("coco-stuff", tmp_path / "converted")
    assert np.array_equal(converted.read("000000000009").mask, numbers(0, 11, 170, 255))
    release = drawn("coco-stuff release", tmp_path / "release")
    assert np.array_equal(release.read("000000000009").mask, numbers(0, 11, 170, 255))
    names = dict(enumerate(coco_stuff.CLASSES.names))
    # Of COCO's own list, counted from 0: 0 person, 12 stop sign (11, street sign, is in no annotation),
    # 89 toothbrush, 91 banner, 181 wood.
    table = coco_stuff.LAYOUTS[1].labels.table  # type: ignore[attr-defined]
    known = {0: "person", 12: "stop sign", 89: "toothbrush", 91: "banner", 181: "wood"}
    assert {value: names[table[value]] for value in known} == known
    assert len(names) == 171
    assert 11 not in table


def test_vaihingens_colours_are_its_classes_and_black_is_none(tmp_path: Path) -> None:
    dataset = drawn("vaihingen release", tmp_path)
    assert isinstance(dataset, Tiled)
    mask = dataset.whole.read("area11").mask
    assert [int(mask[0, x]) for x in range(36, 512, 73)] == [0, 1, 2, 3, 4, 5, 255]


def test_vaihingens_release_has_the_tiles_of_the_converted_set(tmp_path: Path) -> None:
    release = drawn("vaihingen release", tmp_path / "release")
    assert release.splits["train"] == (
        *("area11_0_0_512_512", "area1_0_0_512_512", "area1_0_88_512_600"),
        *("area1_8_0_520_512", "area1_8_88_520_600"),
    )
    converted = tmp_path / "converted"
    for split, stems in release.splits.items():
        for stem, image, mask in map(release.read, stems):
            save(converted / "img_dir" / split / f"{stem}.png", image)
            save(converted / "ann_dir" / split / f"{stem}.png", (mask + 1).astype(np.uint8))  # 255 + 1 is 0
    assert open_dataset("vaihingen", converted).digest() == release.digest()


def test_vaihingens_participants_have_labels_of_the_training_areas_alone(tmp_path: Path) -> None:
    draw_vaihingen_release(tmp_path, "gts_for_participants", "")
    (tmp_path / "gts_for_participants" / "top_mosaic_09cm_area2.tif").unlink()
    dataset = open_dataset("vaihingen", tmp_path)
    dataset.check()
    assert list(dataset.splits) == ["train"]


@pytest.mark.parametrize("name", ["chase", "stare", "hrf"])
def test_vessels_are_one_and_the_rest_is_zero(name: str, tmp_path: Path) -> None:
    for variant in (name, f"{name} release"):
        dataset = drawn(variant, tmp_path / variant.replace(" ", "-"))
        assert dataset.classes.names == ("background", "vessel")
        for sample in dataset.samples():
            assert np.array_equal(sample.mask, halves() // 255), variant
        assert dataset.class_frequencies() == pytest.approx([0.5, 0.5])


def test_the_first_images_of_a_release_are_for_training(tmp_path: Path) -> None:
    assert drawn("chase release", tmp_path / "chase").splits["train"] == ("Image_01L", "Image_10R")
    assert drawn("stare release", tmp_path / "stare").splits["train"] == ("im0001", "im0139")
    assert drawn("hrf release", tmp_path / "hrf").splits["train"] == ("01_h", "05_dr")


def test_the_published_splits_have_the_published_sizes() -> None:
    chase = [f"Image_{child:02d}{eye}" for child in range(1, 15) for eye in "LR"]
    hrf = [f"{number:02d}_{group}" for number in range(1, 16) for group in ("h", "g", "dr")]
    stare = [
        f"im{n:04d}" for n in (*range(1, 6), 44, 77, 81, 82, 139, 162, 163, 235, 236, 239, 240, 255, 291, 319, 324)
    ]
    for stems, (_, release), sizes in (
        (chase, vessels.CHASE, (20, 8)),
        (stare, vessels.STARE, (10, 10)),
        (hrf, vessels.HRF, (15, 30)),
    ):
        assert release.split_of is not None
        splits = [release.split_of(stem) for stem in stems]
        assert (splits.count("train"), splits.count("val")) == sizes == tuple(release.published.values())
        # As sorted lists, which is how MMSegmentation's converters split; HRF's are per group.
        if release is not vessels.HRF[1]:
            assert sorted(stems)[: sizes[0]] == [s for s, split in zip(stems, splits, strict=True) if split == "train"]


def test_a_part_of_a_set_is_no_error_but_is_known(tmp_path: Path) -> None:
    dataset = drawn("ade20k", tmp_path)
    assert isinstance(dataset, Published)
    assert dataset.differences() == ("train: 3 images, published 20210", "val: 2 images, published 2000")


def test_sizes_come_from_headers_upright(tmp_path: Path) -> None:
    dataset = drawn("chase release", tmp_path)
    assert isinstance(dataset, Published)
    assert dataset.shape("Image_01L") == (HEIGHT, WIDTH)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0)).save(tmp_path / "Image_01L.jpg", exif=exif)
    assert dataset.shape("Image_01L") == (WIDTH, HEIGHT) == read_image(tmp_path / "Image_01L.jpg").shape[:2]
