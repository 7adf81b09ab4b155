"""Published data sets: what is found wrong, and how it is said."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest

from stagekit.data.layouts import coco_stuff, open_dataset
from stagekit.data.layouts.reader import Published
from stagekit.errors import DatasetError, ImageError

from .drawn import HEIGHT, WIDTH, draw_ade20k, drawn, halves, numbers, paint_area, picture, problems, save


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    dataset = drawn("ade20k", tmp_path)
    images, masks = tmp_path / "images" / "training", tmp_path / "annotations" / "training"
    (masks / "ADE_train_00000001.png").rename(masks / "ADE_train_00000001_seg.png")
    save(masks / "ADE_train_00000002.png", numbers(1)[:4])
    save(masks / "ADE_train_00000003.png", numbers(151, 200, 1))
    save(images / "ADE_train_00000004.jpg", picture(1))
    save(masks / "ADE_train_00000004.png", picture(1))
    (images / "ADE_train_00000005.jpg").write_bytes(b"broken")
    save(masks / "ADE_train_00000005.png", numbers(1))
    save(images / "holiday.png", picture(1))
    save(tmp_path / "images" / "validation" / "ADE_train_00000002.jpg", picture(2))
    save(tmp_path / "annotations" / "validation" / "ADE_train_00000002.png", numbers(1))
    message = problems(dataset)
    for expected in (
        "8 problems",
        "images/training/: 1 images are not called as expected (*.jpg): holiday.png",
        "images/training/ADE_train_00000001.jpg: no mask ADE_train_00000001.png in annotations/training/; "
        "the nearest is ADE_train_00000001_seg.png",
        "annotations/training/ADE_train_00000001_seg.png: no image of this stem in images/training/",
        "annotations/training/ADE_train_00000002.png: the mask has 16x4 pixels, its image 16x12",
        "annotations/training/ADE_train_00000003.png: values [151, 200] (128 pixels) are outside the classes: "
        "a mask here holds 0 to 150",
        "annotations/training/ADE_train_00000004.png: a mask of labels is indexed or greyscale, found mode RGB",
        "images/training/ADE_train_00000005.jpg: expected an image",
        "ADE_train_00000002: several images of this stem: images/training/ADE_train_00000002.jpg, images/validation/",
    ):
        assert expected in message, message


def test_a_folder_named_otherwise_is_pointed_at(tmp_path: Path) -> None:
    draw_ade20k(tmp_path)
    (tmp_path / "images" / "validation").rename(tmp_path / "images" / "val")
    (tmp_path / "annotations").rename(tmp_path / "annotation")
    with pytest.raises(DatasetError) as caught:
        open_dataset("ade20k", tmp_path)
    for expected in ("images/validation/ (is it images/val/?)", "annotations/training/ (is it annotation/?)"):
        assert expected in str(caught.value)
    assert "missing: images/training/" not in str(caught.value)


def test_images_of_another_format_are_named(tmp_path: Path) -> None:
    draw_ade20k(tmp_path)
    for split in ("training", "validation"):
        for file in (tmp_path / "images" / split).iterdir():
            file.rename(file.with_suffix(".png"))
    dataset = open_dataset("ade20k", tmp_path)
    expected = r"images/training/: no image is called \*\.jpg; found ADE_train_00000001\.png"
    with pytest.raises(DatasetError, match=expected):
        dataset.check()
    with pytest.raises(DatasetError, match=expected):
        dataset.stems()


def test_black_and_white_where_numbers_belong_is_found(tmp_path: Path) -> None:
    dataset = drawn("hrf", tmp_path)
    save(tmp_path / "annotations" / "training" / "01_h.png", halves())
    assert "values [255] (96 pixels) are outside the classes: a mask here holds 0 to 1" in problems(dataset)


def test_numbers_where_black_and_white_belongs_are_found(tmp_path: Path) -> None:
    dataset = drawn("hrf release", tmp_path)
    save(tmp_path / "manual1" / "01_h.tif", halves() // 128)
    save(tmp_path / "manual1" / "05_dr.tif", picture(1))
    message = problems(dataset)
    assert "manual1/01_h.tif: expected black (0) and white (255), found values up to 1" in message
    assert "manual1/05_dr.tif: expected a black and white mask, found colours" in message


def test_palette_and_numbers_are_told_apart(tmp_path: Path) -> None:
    release = drawn("vaihingen release", tmp_path / "release")
    labels = tmp_path / "release" / "gts" / "top_mosaic_09cm_area11_noBoundary.tif"
    save(labels, np.ones((512, 512), dtype=np.uint8))
    strange = paint_area(520, 1100)
    strange[0, 0] = (1, 2, 3)
    save(tmp_path / "release" / "gts" / "top_mosaic_09cm_area2_noBoundary.tif", strange)
    message = problems(release)
    assert (
        "area11_noBoundary.tif: expected a mask painted in the colours of the classes, found one of numbers" in message
    )
    assert "area2_noBoundary.tif: colours that belong to no class: [1, 2, 3] (1 pixels)" in message

    converted = drawn("vaihingen", tmp_path / "converted")
    save(tmp_path / "converted" / "ann_dir" / "val" / "area2_0_0_512_512.png", paint_area(HEIGHT, WIDTH))
    assert "ann_dir/val/area2_0_0_512_512.png: a mask of labels is indexed or greyscale" in problems(converted)


def test_published_pixel_maps_are_no_converted_ones(tmp_path: Path) -> None:
    dataset = drawn("coco-stuff", tmp_path)
    save(tmp_path / "annotations" / "val2017" / "000000000139_labelTrainIds.png", numbers(181))
    assert "values [181] (192 pixels) are outside the classes: a mask here holds 0 to 170, 255" in problems(dataset)
    (tmp_path / "annotations" / "val2017" / "000000000139_labelTrainIds.png").unlink()
    release = open_dataset("coco-stuff", tmp_path)
    assert isinstance(release, Published)
    assert release.layout is coco_stuff.LAYOUTS[1], "only the published maps are complete"


def test_a_damaged_archive_is_named_itself(tmp_path: Path) -> None:
    dataset = drawn("stare release", tmp_path)
    packed = tmp_path / "stare-images" / "im0001.ppm.gz"
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="damaged") as caught:
        dataset.read("im0001")
    assert caught.value.where == str(packed)
    packed.write_bytes(gzip.compress(b"P6 no image"))
    assert "stare-images/im0001.ppm.gz: expected" in problems(dataset)


def test_nothing_of_an_unpacked_archive_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    drawn("stare release", tmp_path / "set").check()
    assert not any(temporary.iterdir())


def test_a_missing_mask_is_named_when_read(tmp_path: Path) -> None:
    dataset = drawn("chase release", tmp_path)
    (tmp_path / "Image_01L_1stHO.png").unlink()
    with pytest.raises(DatasetError, match=r"no mask Image_01L_1stHO\.png"):
        open_dataset("chase", tmp_path).read("Image_01L")
    assert "Image_01L.jpg: no mask Image_01L_1stHO.png" in problems(dataset)
