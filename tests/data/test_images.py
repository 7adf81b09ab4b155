"""Readers against files made by hand, and every broken file gives an ImageError that names it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stagekit.data import images
from stagekit.data.images import list_images, read_image, read_mask, write_image, write_mask
from stagekit.data.palette import VOID
from stagekit.errors import DatasetError, ImageError, StagekitError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG written from the standard, independently of Pillow."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gradient(height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 8, x * 8, (x + y) * 5], axis=2).astype(np.uint8)


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", gradient())
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert np.array_equal(image, gradient())


def test_grey_is_repeated_in_three_channels(tmp_path: Path) -> None:
    Image.fromarray(gradient()[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(gradient()[..., :1], 3, axis=2))


def test_sixteen_bits_lose_their_low_byte_in_grey_and_in_colour(tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 0x12FF, 0xFE01)))
    (tmp_path / "rgb.png").write_bytes(png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0x12FF, 0xFE01, 0x8000)))
    Image.fromarray(np.array([[0x12FF, 0xFE01]], dtype=np.uint16)).save(tmp_path / "grey.tif")
    for name in ("grey.png", "grey.tif"):
        assert read_image(tmp_path / name).tolist() == [[[0x12] * 3, [0xFE] * 3]]
    assert read_image(tmp_path / "rgb.png").tolist() == [[[0x12, 0xFE, 0x80]]]


def test_transparency_is_composited_on_black(tmp_path: Path) -> None:
    pixels = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[0, :2].tolist() == [[200, 100, 50], [0, 0, 0]]
    assert np.abs(image[0, 2] - np.array([100, 50, 25])).max() <= 1


def test_palettes_are_looked_up_with_their_transparency(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    indexed.putpalette([*RED, *GREEN, *BLUE])
    indexed.save(tmp_path / "a.png")
    indexed.save(tmp_path / "b.png", transparency=1)
    assert read_image(tmp_path / "a.png").tolist() == [[list(RED), list(GREEN), list(BLUE)]]
    assert read_image(tmp_path / "b.png").tolist() == [[list(RED), [0, 0, 0], list(BLUE)]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - RED).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = gradient()
    # How a camera stores the upright picture under each orientation, by the EXIF table.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), upright)


def test_broken_files_name_themselves_and_a_way_out(tmp_path: Path) -> None:
    write_image(tmp_path / "whole.jpg", gradient(200, 200))
    write_image(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8))
    contents = {
        "empty.png": b"",
        "text.png": b"not an image at all",
        "cut.jpg": (tmp_path / "whole.jpg").read_bytes()[:900],
        "cut.png": (tmp_path / "whole.png").read_bytes()[:5000],
        "header.png": (tmp_path / "whole.png").read_bytes()[:20],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "missing.png", "."):
        for read in (read_image, read_mask):
            with pytest.raises(ImageError) as caught:
                read(tmp_path / name)
            assert caught.value.where == str(tmp_path / name)
            assert caught.value.remedy


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(8, 400), value=st.integers(0, 255), cut=st.integers(9, 600))
def test_damage_is_an_image_or_an_image_error_never_a_crash(
    tmp_path: Path, position: int, value: int, cut: int
) -> None:
    for name in ("a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"):
        path = tmp_path / name
        if not path.exists():
            write_image(path, gradient(9, 11))
        content = bytearray(path.read_bytes())
        content[position % len(content)] = value
        damaged = tmp_path / f"damaged{path.suffix}"
        damaged.write_bytes(content[:cut])
        try:
            assert read_image(damaged).ndim == 3
        except ImageError as error:
            assert error.where == str(damaged)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, 8, 0, b""))
    (tmp_path / "large.png").write_bytes(png(12_000, 11_500, 8, 0, b""))
    for name in ("bomb.png", "large.png"):
        with pytest.raises(ImageError, match="expected at most 134217728 pixels"):
            read_image(tmp_path / name)


def test_floating_point_has_no_range_and_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="floating point"):
        read_image(tmp_path / "a.tif")


def test_masks_come_back_as_written_and_show_their_colours(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2, 255], [2, 2, 1, 0]], dtype=np.uint8)
    write_mask(tmp_path / "m.png", labels, [RED, GREEN, BLUE])
    assert np.array_equal(read_mask(tmp_path / "m.png"), labels)
    assert np.array_equal(read_mask(tmp_path / "m.png", [RED, GREEN, BLUE]), labels)
    assert read_image(tmp_path / "m.png")[0].tolist() == [list(c) for c in (RED, GREEN, BLUE, VOID)]
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(np.uint8, "m.png"), (np.uint8, "m.tif"), (np.uint16, "m.png"), (np.uint16, "m.tif"), (bool, "m.png")],
)
def test_greyscale_masks_hold_labels(tmp_path: Path, dtype: type, name: str) -> None:
    Image.fromarray(np.array([[0, 1, 1]]).astype(dtype)).save(tmp_path / name)
    labels = read_mask(tmp_path / name)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 1, 1]]


def test_colour_masks_are_mapped_by_the_palette(tmp_path: Path) -> None:
    write_image(tmp_path / "m.png", np.array([[BLUE, RED, (0, 0, 0)]], dtype=np.uint8))
    assert read_mask(tmp_path / "m.png", [RED, GREEN, BLUE], void=(0, 0, 0)).tolist() == [[2, 0, 255]]
    with pytest.raises(ImageError, match="found mode RGB"):
        read_mask(tmp_path / "m.png")
    with pytest.raises(ImageError, match=r"\[0, 0, 0\] \(1 pixels\)"):
        read_mask(tmp_path / "m.png", [RED, GREEN, BLUE])


def test_many_unknown_colours_are_counted_and_the_most_frequent_listed(tmp_path: Path) -> None:
    pixels = np.zeros((10, 10, 3), dtype=np.uint8)
    pixels[0, :, 0] = np.arange(1, 11)
    pixels[1, :4] = (9, 9, 9)
    write_image(tmp_path / "m.png", pixels)
    with pytest.raises(ImageError, match=r"\[9, 9, 9\] \(4 pixels\), .* and 6 more"):
        read_mask(tmp_path / "m.png", [(0, 0, 0)])


def test_masks_that_lose_labels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "m.jpg")
    Image.fromarray(np.array([[300]], dtype=np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(ImageError, match="without loss"):
        read_mask(tmp_path / "m.jpg")
    with pytest.raises(ImageError, match="found 300"):
        read_mask(tmp_path / "m.png")


def test_an_indexed_mask_numbered_by_another_palette_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", np.array([[0, 1]], dtype=np.uint8), [GREEN, RED])
    with pytest.raises(ImageError, match=r"label 0 is painted .* the colour of class 1"):
        read_mask(tmp_path / "m.png", [RED, GREEN])
    assert read_mask(tmp_path / "m.png", [(1, 2, 3), (4, 5, 6)]).tolist() == [[0, 1]]


def test_what_cannot_be_shown_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"labels \[3\]"):
        write_mask(tmp_path / "m.png", np.array([[3]], dtype=np.uint8), [RED])
    with pytest.raises(ImageError, match="uint8"):
        write_mask(tmp_path / "m.png", np.array([[0]]), [RED])  # type: ignore[arg-type]
    with pytest.raises(DatasetError):
        write_mask(tmp_path / "m.png", np.array([[0]], dtype=np.uint8), [RED, RED])
    with pytest.raises(StagekitError, match="cannot be written"):
        write_image(tmp_path / "nowhere" / "a.png", gradient())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mask(tmp_path / "m.png", np.zeros((2, 2), dtype=np.uint8), [RED])

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StagekitError, match="No space left"):
        write_mask(tmp_path / "m.png", np.zeros((9, 9), dtype=np.uint8), [RED])
    assert read_mask(tmp_path / "m.png").shape == (2, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_listing_expands_folders_sorts_and_passes_over_what_is_no_image(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "odd.dat").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    listed = list_images([tmp_path / "odd.dat", tmp_path, tmp_path / "a.png"])
    assert [path.name for path in listed] == ["a.png", "b.JPG", "odd.dat"]
    with pytest.raises(ImageError, match="no such file"):
        list_images([tmp_path / "a.png", tmp_path / "z.png"])
    with pytest.raises(ImageError, match="found none"):
        list_images([tmp_path / "empty"])


def test_a_link_to_nothing_among_the_images_of_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", gradient())
    (tmp_path / "b.png").symlink_to("gone.png")
    assert [path.name for path in list_images([tmp_path])] == ["a.png", "b.png"]
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "b.png")


def test_the_reader_holds_no_file_open(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", gradient())
    with images._opened(tmp_path / "a.png") as image:
        assert getattr(image, "fp", None) is None
