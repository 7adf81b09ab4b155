"""Images and masks, from files to arrays and back.

An image is uint8 (height, width, 3) RGB; a mask is uint8 (height, width), one label a pixel.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from stagekit.data.palette import IGNORE, VOID, Color, Palette, check_palette
from stagekit.errors import ImageError, StagekitError
from stagekit.whole import write_whole

Pixels = NDArray[np.uint8]

EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""The file names that a folder of images is searched for."""
MAX_PIXELS = 1 << 27
"""Larger images (134 megapixels) are refused: they are tiles to cut, or a file made to exhaust memory."""


def read_image(path: str | PathLike[str]) -> Pixels:
    """An image file as uint8 (height, width, 3) RGB, upright.

    EXIF orientation is applied. Grey is repeated in three channels, palettes are looked up, CMYK is converted
    without a colour profile, transparency is composited on black, and 16 bits become 8 by ``>> 8``. Of a file
    with several pages or frames the first counts.

    Raises:
        ImageError: when there is no such file, it is empty, cut short, no image, larger than ``MAX_PIXELS`` or
            of a sample format with no defined range (float).
    """
    with _opened(path) as image:
        wide = _sixteen_bits(image, path)
        if wide is not None:
            grey = (wide >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.new("RGBA", layer.size, (0, 0, 0, 255))
            image.alpha_composite(layer)
        return np.array(image.convert("RGB"))


def read_mask(
    path: str | PathLike[str],
    palette: Sequence[Sequence[int]] | None = None,
    void: Color | None = None,
) -> Pixels:
    """A mask file as uint8 (height, width) labels.

    Indexed and greyscale files hold the labels themselves (a 1-bit file: 0 and 1). A colour file holds them
    as the colours of ``palette``: colour ``i`` is label ``i``, and ``void`` is label 255.

    Raises:
        ImageError: as for ``read_image``; and for a JPEG (its compression invents labels), labels above 255, a
            colour mask without a palette, colours that are not in it (all are counted, the most frequent
            listed), or an indexed mask whose own palette paints a label in another class's colour.
    """
    with _opened(path) as image:
        if image.format == "JPEG":
            raise ImageError(
                "a mask must be stored without loss, found a JPEG, whose compression changes labels",
                where=path,
                remedy="export the mask as PNG",
            )
        wide = _sixteen_bits(image, path)
        if wide is not None:
            if wide.max(initial=0) > 255:
                raise ImageError(
                    f"labels must lie in 0..255, found {int(wide.max())} in a 16-bit mask",
                    where=path,
                    remedy="renumber the labels from 0",
                )
            return wide.astype(np.uint8)
        if image.mode in ("1", "L", "P"):
            labels = np.array(image, dtype=np.uint8)
            if image.mode == "P" and palette is not None:
                _check_paint(image, labels, check_palette(palette), path)
            return labels
        if palette is None:
            raise ImageError(
                f"a mask of labels is indexed or greyscale, found mode {image.mode}",
                where=path,
                remedy="store it as an indexed PNG, or give the palette that its colours come from",
            )
        return _labels_from_colors(np.array(image.convert("RGB")), check_palette(palette), void, path)


def write_image(path: str | PathLike[str], image: Pixels) -> None:
    """Write uint8 (height, width, 3) RGB; the extension names the format. The file appears whole or not at all."""
    _write(path, Image.fromarray(image))


def write_mask(path: str | PathLike[str], labels: Pixels, palette: Sequence[Sequence[int]]) -> None:
    """Write uint8 (height, width) labels as an indexed PNG that viewers show in the palette's colours.

    The file appears whole or not at all. Label 255 is shown in ``VOID``.

    Raises:
        ImageError: when a label is neither in the palette nor 255, or the array is not uint8 (height, width).
    """
    colors = check_palette(palette)
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise ImageError(
            f"expected uint8 labels (height, width), found {labels.dtype} {labels.shape}",
            where=path,
            remedy="write one byte a pixel: labels.astype(numpy.uint8)",
        )
    strange = sorted({int(label) for label in np.unique(labels)} - {*range(len(colors)), IGNORE})
    if strange:
        raise ImageError(
            f"labels {strange[:8]} have no colour in a palette of {len(colors)}",
            where=path,
            remedy=f"extend the palette, or mark pixels of no class with {IGNORE}",
        )
    image = Image.fromarray(labels)
    # All 256 entries, so that Pillow stores 8 bits a pixel and label 255 survives.
    image.putpalette([level for color in (*colors, *[(0, 0, 0)] * (IGNORE - len(colors)), VOID) for level in color])
    _write(path, image, format_="PNG")


def list_images(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """The image files among ``paths``, folders replaced by the images directly in them; sorted, each once.

    In a folder, hidden files and other extensions than ``EXTENSIONS`` are passed over; a link to nothing is not, so
    that reading it says so. A file named outright is taken whatever its extension: reading it decides.

    Raises:
        ImageError: when a path does not exist or a folder holds no image.
    """
    found: set[Path] = set()
    for path in map(Path, paths):
        if path.is_dir():
            images = {file for file in path.iterdir() if is_image_name(file) and not file.is_dir()}
            if not images:
                raise ImageError(
                    "expected images in the folder, found none",
                    where=path,
                    remedy=f"images end in {' '.join(sorted(EXTENSIONS))}; folders inside it are not searched",
                )
            found |= images
        elif path.exists():
            found.add(path)
        else:
            raise ImageError("no such file or folder", where=path, remedy="check the path")
    return sorted(found)


def is_image_name(path: Path) -> bool:
    """Whether a folder listing takes ``path`` for an image, by its name alone."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[Image.Image]:
    """The decoded image, upright. Everything that Pillow raises while it is read becomes an ImageError."""
    file = Path(path)
    if not file.is_file():
        what = "expected an image file, found a folder" if file.is_dir() else "no such file"
        raise ImageError(what, where=path, remedy="check the path")
    if file.stat().st_size == 0:
        raise ImageError("expected an image, found an empty file (0 bytes)", where=path, remedy="copy it again")
    try:
        with Image.open(file) as image:
            width, height = image.size
            _check_size(width, height, path)
            image.load()
            # Pillow drops the format when it turns an image; the mask reader needs it.
            format_ = image.format
            upright = ImageOps.exif_transpose(image)
            upright.format = format_
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, "more than Pillow's own limit") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            "expected an image, found a file that Pillow does not know",
            where=path,
            remedy="convert it to PNG, JPEG or TIFF",
        ) from error
    except PermissionError as error:
        raise ImageError("the file may not be read", where=path, remedy="check its permissions") from error
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders report damage as whatever they stumble over
        raise ImageError(
            f"expected a complete image, found one that is damaged or cut short ({error})",
            where=path,
            remedy="copy or export it again",
        ) from error
    yield upright


def _check_size(width: int, height: int, path: str | PathLike[str]) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width}x{height} pixels")


def _too_large(path: str | PathLike[str], found: str) -> ImageError:
    return ImageError(
        f"expected at most {MAX_PIXELS} pixels, found {found}",
        where=path,
        remedy="cut it into tiles or shrink it first",
    )


def _sixteen_bits(image: Image.Image, path: str | PathLike[str]) -> NDArray[np.uint16] | None:
    """The samples of a 16-bit grey image, or none if it has 8 bits."""
    if image.mode == "F":
        raise ImageError(
            "expected 8 or 16 bits a sample, found floating point, whose range no file states",
            where=path,
            remedy="scale it to 0..255 and store it as PNG",
        )
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return None
    samples = np.asarray(image).astype(np.int64)
    if samples.min(initial=0) < 0 or samples.max(initial=0) > 65535:
        raise ImageError(
            f"expected 16-bit samples, found values from {samples.min()} to {samples.max()}",
            where=path,
            remedy="scale it to 0..255 and store it as PNG",
        )
    return samples.astype(np.uint16)


def _labels_from_colors(rgb: Pixels, palette: Palette, void: Color | None, path: str | PathLike[str]) -> Pixels:
    codes = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    known = {(red << 16) + (green << 8) + blue: label for label, (red, green, blue) in enumerate(palette)}
    if void is not None:
        known[(void[0] << 16) + (void[1] << 8) + void[2]] = IGNORE
    colors, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    strange = [(int(count), int(code)) for code, count in zip(colors, counts, strict=True) if int(code) not in known]
    if strange:
        worst = sorted(strange, key=lambda pair: (-pair[0], pair[1]))[:5]
        listed = ", ".join(f"[{c >> 16}, {c >> 8 & 255}, {c & 255}] ({n} pixels)" for n, c in worst)
        more = f" and {len(strange) - len(worst)} more" if len(strange) > len(worst) else ""
        raise ImageError(
            f"colours that belong to no class: {listed}{more}",
            where=path,
            remedy="add them to the classes, or export the mask without smoothing or scaling",
        )
    table = np.array([known[int(code)] for code in colors], dtype=np.uint8)
    return table[inverse].reshape(codes.shape)


def _check_paint(image: Image.Image, labels: Pixels, palette: Palette, path: str | PathLike[str]) -> None:
    """An indexed file made by quantising a painted mask numbers its colours as it likes; catch that."""
    painted = image.getpalette("RGB") or []
    for label in (int(value) for value in np.unique(labels)):
        red, green, blue = [*painted[3 * label : 3 * label + 3], 0, 0, 0][:3]
        color = (red, green, blue)
        if color in palette and palette.index(color) != label:
            raise ImageError(
                f"label {label} is painted {list(color)}, the colour of class {palette.index(color)}",
                where=path,
                remedy="store the mask in RGB, so that colours count, or renumber its labels",
            )


def _write(path: str | PathLike[str], image: Image.Image, format_: str | None = None) -> None:
    """Encodes in memory, so that the file is there whole or not at all."""
    file = Path(path)
    encoded = io.BytesIO()
    if format_ is None:
        format_ = Image.registered_extensions().get(file.suffix.lower())
        if format_ is None:
            raise ImageError(f"no image format is called {file.suffix!r}", where=path, remedy="end the name in .png")
    image.save(encoded, format=format_)
    try:
        write_whole(path, encoded.getvalue())
    except OSError as error:
        raise StagekitError(f"cannot be written ({error.strerror})", where=path, remedy="check the folder") from error
