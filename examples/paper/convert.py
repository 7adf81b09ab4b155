"""Check a published data set and write it as a folder of images, masks and classes.json.

    python examples/paper/convert.py vaihingen path/to/release data/vaihingen

docs/datasets.md says how each kind is laid out and where it comes from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.progress import Progress

from stagekit.data.folder import to_folder
from stagekit.data.layouts import KINDS, open_dataset
from stagekit.errors import StagekitError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[kind for kind in KINDS if kind != "folder"])
    parser.add_argument("root", type=Path, help="of the published data set")
    parser.add_argument("out", type=Path, help="the folder to write, new or empty")
    given = parser.parse_args()

    dataset = open_dataset(given.kind, given.root)
    with Progress() as bars:
        dataset.check(bar(bars, "checking"))
        folder = to_folder(dataset, given.out, bar(bars, "writing"))
    for split, stems in folder.splits.items():
        print(f"{split:5} {len(stems)} images")
    print(f"content {folder.digest()[:16]}")


def bar(bars: Progress, title: str) -> Callable[[int, int], None]:
    """A progress bar as the callback that data sets call with (done, total)."""
    task = bars.add_task(title, total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)


if __name__ == "__main__":
    try:
        main()
    except StagekitError as error:
        sys.exit(str(error))
