"""Published data sets: what holds of every kind."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFile

from stagekit.data.folder import Folder, to_folder
from stagekit.data.layouts import KINDS, open_dataset
from stagekit.data.tiling import Tiled
from stagekit.errors import DatasetError, UsageError

from .drawn import DRAWN, drawn


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
