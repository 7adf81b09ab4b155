"""What the scripts beside this one share: their arguments, and the report on what they wrote."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from stagekit.data.folder import Folder
from stagekit.data.images import Pixels, write_image
from stagekit.data.overlay import legend, overlay, side_by_side, stacked
from stagekit.errors import StagekitError


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every one of these scripts takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write, new or empty")
    parser.add_argument("--preview", type=Path, metavar="FILE.png", help="a picture of some samples with their labels")
    return parser


def finish(folder: Folder, picture: Path | None) -> None:
    """Check what was written, say what it is, draw it."""
    folder.check()
    print(summary(folder))
    if picture is not None:
        write_image(picture, preview(folder))


def summary(folder: Folder) -> str:
    """Tiles a split and the share of each class in it, in per cent."""
    lines = [f"{folder.root}: {len(folder.images)} images, content {folder.digest()[:16]}"]
    for split, stems in folder.splits.items():
        shares = zip(folder.classes.names, folder.class_frequencies(split), strict=True)
        lines.append(f"  {split:5} {len(stems):3}  " + ", ".join(f"{name} {100 * share:.1f}" for name, share in shares))
    return "\n".join(lines)


def preview(folder: Folder, rows: int = 4, columns: int = 4) -> Pixels:
    """Evenly spaced samples of the data set: each image beside its labels, with the legend below."""
    stems = folder.stems()
    chosen = [stems[i * len(stems) // (rows * columns)] for i in range(min(rows * columns, len(stems)))]
    palette = folder.classes.palette
    pairs = [side_by_side([s.image, overlay(s.image, s.mask, palette)], gap=0) for s in map(folder.read, chosen)]
    lines = [side_by_side(pairs[i : i + columns]) for i in range(0, len(pairs), columns)]
    return stacked([*lines, legend(folder.classes.names, palette, width=lines[0].shape[1])])


def run(main: Callable[[], None]) -> None:
    """Run a script; what stagekit finds wrong is printed without a traceback."""
    try:
        main()
    except StagekitError as error:
        sys.exit(str(error))
