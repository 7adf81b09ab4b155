"""Published data sets in their own layouts, drawn small."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stagekit.data.dataset import Dataset
from stagekit.data.images import Pixels
from stagekit.data.layouts import ade20k, coco_stuff, open_dataset, vaihingen, vessels
from stagekit.data.tiling import Tiled
from stagekit.errors import DatasetError

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
