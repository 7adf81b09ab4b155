"""Published data sets in their own layouts, drawn small: what is read, and what is found wrong."""

from __future__ import annotations

import gzip
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from stagekit.data.dataset import Dataset
from stagekit.data.folder import Folder, to_folder
from stagekit.data.images import Pixels, read_image
from stagekit.data.layouts import KINDS, ade20k, coco_stuff, open_dataset, vaihingen, vessels
from stagekit.data.layouts.reader import Published
from stagekit.data.tiling import Tiled
from stagekit.errors import DatasetError, ImageError, UsageError

HEIGHT, WIDTH = 12, 16


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Noise in a pattern that repeats, so that large ones are quick to compress."""
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return np.tile(noise, (-(-height // HEIGHT), -(-width // WIDTH), 1))[:height, :width]


def save(path: Path, pixels: Pixels, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def numbers(*values: int) -> Pixels:
    """A mask that holds each value in turn."""
    return np.resize(np.array(values, dtype=np.uint8), (HEIGHT, WIDTH))


def halves() -> Pixels:
    """Black on the left, white on the right."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:, WIDTH // 2 :] = 255
    return mask


def draw_ade20k(root: Path) -> None:
    for split, prefix, count in (("training", "train", 3), ("validation", "val", 2)):
        for index in range(1, count + 1):
            stem = f"ADE_{prefix}_{index:08d}"
            save(root / "images" / split / f"{stem}.jpg", picture(index))
            save(root / "annotations" / split / f"{stem}.png", numbers(0, 1, 2, 150))


def draw_coco_stuff(root: Path, converted: bool = True, raw: bool = True) -> None:
    for split, ids in (("train2017", (9, 25)), ("val2017", (139,))):
        for index in ids:
            save(root / "images" / split / f"{index:012d}.jpg", picture(index))
            masks = root / "annotations" / split
            if converted:
                save(masks / f"{index:012d}_labelTrainIds.png", numbers(0, 11, 170, 255))
            if raw:
                save(masks / f"{index:012d}.png", numbers(0, 12, 181, 255))


def draw_vaihingen(root: Path) -> None:
    for split, area in (("train", "area1"), ("val", "area2")):
        for left in (0, 512):
            name = f"{area}_{left}_0_{left + 512}_512.png"
            save(root / "img_dir" / split / name, picture(left))
            save(root / "ann_dir" / split / name, numbers(0, 1, 6))


def paint_area(height: int, width: int, boundary: bool = True) -> Pixels:
    """Vertical stripes of all six classes, and of the boundary."""
    colors = [*vaihingen.CLASSES.palette, *([(0, 0, 0)] if boundary else [])]
    stripes = np.array(colors, dtype=np.uint8)[np.arange(width) * len(colors) // width]
    return np.broadcast_to(stripes, (height, width, 3)).copy()


def draw_vaihingen_release(root: Path, masks: str = "gts", suffix: str = "_noBoundary") -> None:
    for area, height, width in ((1, 600, 520), (2, 520, 1100), (11, 512, 512)):
        name = f"top_mosaic_09cm_area{area}"
        save(root / "top" / f"{name}.tif", picture(area, height, width))
        save(root / masks / f"{name}{suffix}.tif", paint_area(height, width))


def draw_converted_vessels(root: Path, train: tuple[str, ...], val: tuple[str, ...], suffix: str) -> None:
    for split, stems in (("training", train), ("validation", val)):
        for seed, stem in enumerate(stems):
            save(root / "images" / split / f"{stem}.png", picture(seed))
            save(root / "annotations" / split / f"{stem}{suffix}.png", halves() // 128)


def draw_chase(root: Path) -> None:
    draw_converted_vessels(root, ("Image_01L", "Image_01R"), ("Image_11L",), "_1stHO")
    save(root / "annotations" / "training" / "Image_01L_2ndHO.png", halves() // 128)


def draw_chase_release(root: Path) -> None:
    for seed, stem in enumerate(("Image_01L", "Image_10R", "Image_11L", "Image_14R")):
        save(root / f"{stem}.jpg", picture(seed))
        save(root / f"{stem}_1stHO.png", halves(), "1")
        save(root / f"{stem}_2ndHO.png", halves(), "1")


def draw_stare(root: Path) -> None:
    draw_converted_vessels(root, ("im0001", "im0139"), ("im0162",), ".ah")
    save(root / "annotations" / "training" / "im0001.vk.png", halves() // 128)


def draw_stare_release(root: Path) -> None:
    for seed, stem in enumerate(("im0001", "im0139", "im0162", "im0324")):
        save(root / "stare-images" / f"{stem}.ppm", picture(seed))
        save(root / "labels-ah" / f"{stem}.ah.ppm", halves())
    for packed in (root / "stare-images" / "im0001.ppm", root / "labels-ah" / "im0162.ah.ppm"):
        packed.with_name(f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes()))
        packed.unlink()


def draw_hrf(root: Path) -> None:
    draw_converted_vessels(root, ("01_h", "05_dr"), ("06_g",), "")


def draw_hrf_release(root: Path) -> None:
    mask = halves()
    mask[0] = np.where(mask[0] == 255, 250, 3)  # not quite black and white, as some are
    for seed, (stem, end) in enumerate((("01_h", "jpg"), ("05_dr", "JPG"), ("06_g", "jpg"), ("15_dr", "JPG"))):
        drawn = root / "images" / f"{stem}.jpg"
        save(drawn, picture(seed))
        drawn.rename(drawn.with_suffix(f".{end}"))
        save(root / "manual1" / f"{stem}.tif", np.repeat(mask[..., None], 3, axis=2) if seed else mask)
        save(root / "mask" / f"{stem}_mask.tif", mask)


DRAWN: dict[str, tuple[str, Callable[[Path], None], dict[str, int]]] = {
    "ade20k": ("ade20k", draw_ade20k, {"train": 3, "val": 2}),
    "coco-stuff": ("coco-stuff", draw_coco_stuff, {"train": 2, "val": 1}),
    "coco-stuff release": ("coco-stuff", lambda root: draw_coco_stuff(root, converted=False), {"train": 2, "val": 1}),
    "vaihingen": ("vaihingen", draw_vaihingen, {"train": 2, "val": 2}),
    "vaihingen release": ("vaihingen", draw_vaihingen_release, {"train": 5, "val": 6}),
    "chase": ("chase", draw_chase, {"train": 2, "val": 1}),
    "chase release": ("chase", draw_chase_release, {"train": 2, "val": 2}),
    "stare": ("stare", draw_stare, {"train": 2, "val": 1}),
    "stare release": ("stare", draw_stare_release, {"train": 2, "val": 2}),
    "hrf": ("hrf", draw_hrf, {"train": 2, "val": 1}),
    "hrf release": ("hrf", draw_hrf_release, {"train": 2, "val": 2}),
}


def drawn(name: str, root: Path) -> Dataset:
    kind, draw, _ = DRAWN[name]
    draw(root)
    return open_dataset(kind, root)


def problems(dataset: Dataset) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(_kind(dataset), dataset.root).check()
    return str(caught.value)


def _kind(dataset: Dataset) -> str:
    layout = dataset.whole.layout if isinstance(dataset, Tiled) else dataset.layout  # type: ignore[attr-defined]
    families = {
        "ade20k": ade20k.LAYOUTS,
        "coco-stuff": coco_stuff.LAYOUTS,
        "vaihingen": (vaihingen.CONVERTED, *vaihingen.RELEASES),
        "chase": vessels.CHASE,
        "stare": vessels.STARE,
        "hrf": vessels.HRF,
    }
    return next(kind for kind, layouts in families.items() if layout in layouts)


# -- every kind -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
def test_a_set_is_read_in_a_fixed_order(name: str, tmp_path: Path) -> None:
    dataset = drawn(name, tmp_path)
    dataset.check()
    assert {split: len(stems) for split, stems in dataset.splits.items()} == DRAWN[name][2]
    assert list(dataset.splits) == ["train", "val"]
    assert dataset.stems() == tuple(sorted(dataset.stems()))
    assert set(dataset.stems()) == {stem for stems in dataset.splits.values() for stem in stems}
    for split, stems in dataset.splits.items():
        assert dataset.stems(split) == stems == tuple(sample.stem for sample in dataset.samples(split))
    with pytest.raises(DatasetError, match="there are: train, val"):
        dataset.stems("test")
    with pytest.raises(DatasetError, match="called 'nobody'"):
        dataset.read("nobody")


@pytest.mark.parametrize("name", DRAWN)
def test_written_as_a_folder_it_is_the_same_set(name: str, tmp_path: Path) -> None:
    dataset = drawn(name, tmp_path / "published")
    seen: list[tuple[int, int]] = []
    folder = to_folder(dataset, tmp_path / "folder", lambda done, total: seen.append((done, total)))
    folder.check()
    assert folder.digest() == dataset.digest()
    assert folder.splits == dataset.splits
    assert folder.classes == dataset.classes
    assert folder.class_frequencies("train") == pytest.approx(dataset.class_frequencies("train"))
    assert seen[-1] == (len(dataset.stems()), len(dataset.stems()))


@pytest.mark.parametrize("name", DRAWN)
def test_checking_decodes_each_file_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = drawn(name, tmp_path)
    decoded: list[str] = []
    load = ImageFile.ImageFile.load

    def counted(image: ImageFile.ImageFile) -> object:
        if image.tile:  # otherwise its pixels are there already
            decoded.append(str(image.filename))
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    dataset.check()
    whole = dataset.whole if isinstance(dataset, Tiled) else dataset
    assert len(decoded) == len(set(decoded)) == 2 * len(whole.stems())


@pytest.mark.parametrize("name", DRAWN)
def test_checking_reports_progress(name: str, tmp_path: Path) -> None:
    dataset = drawn(name, tmp_path)
    seen: list[tuple[int, int]] = []
    dataset.check(lambda done, total: seen.append((done, total)))
    whole = dataset.whole if isinstance(dataset, Tiled) else dataset
    count = len(whole.stems())
    assert seen == [(done, count) for done in range(count + 1)]


@pytest.mark.parametrize("name", DRAWN)
def test_a_loaders_worker_can_be_sent_a_set(name: str, tmp_path: Path) -> None:
    dataset = drawn(name, tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    stem = dataset.stems()[0]
    assert np.array_equal(copy.read(stem).mask, dataset.read(stem).mask)


@pytest.mark.parametrize("name", DRAWN)
def test_another_folder_is_refused_with_what_was_expected_and_found(name: str, tmp_path: Path) -> None:
    kind, draw, _ = DRAWN[name]
    with pytest.raises(DatasetError, match="found none"):
        open_dataset(kind, tmp_path / "nowhere")
    root = tmp_path / "set"
    (root / "readme").mkdir(parents=True)
    with pytest.raises(DatasetError, match="found: readme/") as caught:
        open_dataset(kind, root)
    assert f"expected {kind} in one of these layouts" in caught.value.what
    draw(root / "inner")
    with pytest.raises(DatasetError) as caught:
        open_dataset(kind, root)
    assert caught.value.remedy == f"its root is {root / 'inner'}"


def test_kinds_are_named_and_a_folder_is_one_of_them(tmp_path: Path) -> None:
    assert set(KINDS) == {"folder", "ade20k", "coco-stuff", "vaihingen", "chase", "stare", "hrf"}
    to_folder(drawn("hrf", tmp_path / "hrf"), tmp_path / "folder")
    assert isinstance(open_dataset("folder", tmp_path / "folder"), Folder)
    with pytest.raises(UsageError, match="'ade20'") as caught:
        open_dataset("ade20", tmp_path)
    assert caught.value.remedy == "did you mean 'ade20k'?"


# -- labels -----------------------------------------------------------------------------------------------------------


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


# -- what is wrong ----------------------------------------------------------------------------------------------------


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
