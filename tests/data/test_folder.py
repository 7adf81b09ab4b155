"""A data set folder: written, read, and everything wrong with it found in one pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stagekit.data.classes import Classes
from stagekit.data.folder import Folder, Sample, write_folder
from stagekit.data.images import write_image, write_mask
from stagekit.data.overlay import paint
from stagekit.errors import DatasetError, StagekitError

CLASSES = Classes(("sea", "land"), ((0, 0, 255), (0, 255, 0)), source="drawn here", license="CC0")


def sample(stem: str, land: int = 2, ignored: int = 0) -> Sample:
    """8 x 8 pixels with ``land`` rows of land at the bottom and ``ignored`` unlabelled rows at the top."""
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[8 - land :] = 1
    mask[:ignored] = 255
    return Sample(stem, np.full((8, 8, 3), land, dtype=np.uint8), mask)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    parts = [("train", sample("a", 2)), ("train", sample("b", 4)), ("val", sample("c", 6)), ("test", sample("d", 8))]
    return write_folder(tmp_path / "set", CLASSES, parts)


def problems(folder: Folder) -> str:
    with pytest.raises(DatasetError) as caught:
        Folder.open(folder.root).check()
    return str(caught.value)


def test_what_is_written_is_read(folder: Folder) -> None:
    opened = Folder.open(folder.root)
    opened.check()
    assert opened.classes == CLASSES
    assert opened.splits == {"train": ("a", "b"), "val": ("c",), "test": ("d",)}
    assert opened.stems() == ("a", "b", "c", "d")
    for stem, image, mask in opened.samples("train"):
        expected = sample(stem, {"a": 2, "b": 4}[stem])
        assert np.array_equal(image, expected.image)
        assert np.array_equal(mask, expected.mask)


def test_frequencies_are_shares_of_the_labelled_pixels_of_a_split(folder: Folder, tmp_path: Path) -> None:
    assert folder.class_frequencies("train") == pytest.approx([10 / 16, 6 / 16])
    assert folder.class_frequencies("val") == pytest.approx([0.25, 0.75])
    assert folder.class_frequencies().sum() == pytest.approx(1)
    ignored = write_folder(tmp_path / "other", CLASSES, [(None, sample("a", land=2, ignored=4))])
    assert ignored.class_frequencies() == pytest.approx([0.5, 0.5])
    blank = write_folder(tmp_path / "blank", CLASSES, [(None, sample("a", ignored=8))])
    with pytest.raises(DatasetError, match="labelled pixels"):
        blank.class_frequencies()


def test_painted_masks_are_read_by_colour(folder: Folder) -> None:
    write_image(folder.root / "masks" / "a.png", paint(sample("a").mask, CLASSES.palette))
    folder.check()
    assert np.array_equal(folder.read("a").mask, sample("a").mask)


def test_another_ignore_label_is_seen_as_255(folder: Folder) -> None:
    Classes(CLASSES.names, CLASSES.palette, ignore=9).write(folder.root / "classes.json")
    labels = sample("a").mask
    labels[0] = 9
    Image.fromarray(labels).save(folder.root / "masks" / "a.png")
    assert (Folder.open(folder.root).read("a").mask[0] == 255).all()


def test_the_digest_follows_content_not_compression(folder: Folder, tmp_path: Path) -> None:
    before = folder.digest()
    Image.fromarray(sample("a").image).save(folder.root / "images" / "a.png", compress_level=0)
    assert folder.digest() == before
    write_mask(folder.root / "masks" / "a.png", sample("a", land=3).mask, CLASSES.palette)
    assert folder.digest() != before


def test_everything_wrong_is_listed_at_once(folder: Folder) -> None:
    root = folder.root
    (root / "masks" / "a.png").unlink()
    write_mask(root / "masks" / "b.png", np.zeros((4, 8), dtype=np.uint8), CLASSES.palette)
    Image.fromarray(np.full((8, 8), 7, dtype=np.uint8)).save(root / "masks" / "c.png")
    write_image(root / "masks" / "d.png", np.full((8, 8, 3), 77, dtype=np.uint8))
    write_mask(root / "masks" / "lost.png", sample("x").mask, CLASSES.palette)
    (root / "images" / "e.jpg").write_bytes(b"broken")
    shutil.copy(root / "masks" / "lost.png", root / "masks" / "e.png")
    write_image(root / "images" / "a.jpg", sample("a").image)
    (root / "test.txt").write_text("d\nb\nghost\nd\n")
    (root / "val.txt").write_text("\n")
    message = problems(folder)
    for expected in (
        "11 problems",
        "images/a.*: 2 files of this stem",
        "images/a.png: no masks/a.png",
        "masks/lost.*: no image of this stem",
        "masks/b.png: the mask has 8x4 pixels, its image 8x8",
        "masks/c.png: labels [7] (64 pixels) are outside the classes 0..1",
        "masks/d.png: colours that belong to no class: [77, 77, 77] (64 pixels)",
        "images/e.jpg: expected an image",
        "val.txt: names no image",
        "test.txt: b is in train.txt too",
        "test.txt: ghost has no image",
        "test.txt: d is named 2 times",
    ):
        assert expected in message, message


def test_many_problems_are_capped(folder: Folder) -> None:
    for index in range(30):
        write_image(folder.root / "images" / f"extra{index:02d}.png", sample("x").image)
    message = problems(folder)
    assert "30 problems" in message
    assert message.count("  - ") == 20
    assert "and 10 more" in message


def test_a_mask_numbered_by_another_palette_is_found(folder: Folder) -> None:
    write_mask(folder.root / "masks" / "a.png", sample("a").mask, CLASSES.palette[::-1])
    assert "masks/a.png: label 0 is painted" in problems(folder)


def test_checking_reports_progress(folder: Folder) -> None:
    seen: list[tuple[int, int]] = []
    folder.check(lambda done, total: seen.append((done, total)))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_unknown_splits_and_stems_are_errors(folder: Folder) -> None:
    with pytest.raises(DatasetError, match="there are: train, val, test"):
        folder.stems("valid")
    with pytest.raises(StagekitError, match="no such file"):
        folder.read("ghost")


def test_a_folder_without_its_parts_is_refused(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"images/, masks/, classes\.json"):
        Folder.open(tmp_path / "nowhere")
    shutil.rmtree(folder.root / "masks")
    with pytest.raises(DatasetError, match="masks/"):
        Folder.open(folder.root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected the list of classes"),
        ("[]", "expected the list of classes"),
        ("{}", "'classes' is missing"),
        ({"classes": []}, "0 classes"),
        ({"classes": ["sea"]}, "expected the list of classes"),
        ({"classes": [{"name": "sea"}]}, "'color' is missing"),
        ({"classes": [{"name": "sea", "color": [0, 0, 999]}]}, "three numbers"),
        ({"classes": [{"name": "sea", "color": 3}]}, "expected the list of classes"),
        (
            {"classes": [{"name": "sea", "color": [0, 0, 1]}, {"name": "sea", "color": [0, 0, 2]}]},
            "different class names",
        ),
        ({"classes": [{"name": "sea", "color": [0, 0, 1]}], "ignore": 0}, "ignore label is 0"),
        ({"classes": [{"name": "sea", "color": [0, 0, 1]}], "ignore": "none"}, "expected the list of classes"),
    ],
)
def test_classes_json_is_checked(folder: Folder, content: object, message: str) -> None:
    path = folder.root / "classes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DatasetError, match=message) as caught:
        Folder.open(folder.root)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_a_folder_is_never_overwritten_and_stems_are_unique(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="new or empty"):
        write_folder(folder.root, CLASSES, [])
    with pytest.raises(DatasetError, match="two samples are called a"):
        write_folder(tmp_path / "twice", CLASSES, [(None, sample("a")), (None, sample("a"))])
    assert not (tmp_path / "twice" / "classes.json").exists()
