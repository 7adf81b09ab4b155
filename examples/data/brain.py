"""Build a brain-anatomy data set: axial slices of one MRI scan, labelled with ten groups of AAL regions.

    apt-get download mricron-data && dpkg-deb -x mricron-data_*.deb mricron
    python examples/data/brain.py brain --templates mricron/usr/share/mricron/templates --preview brain.png

ch2 is the average of 27 scans of one person, 181 x 217 x 181 voxels of 1 mm; AAL names 116 regions of that same
brain. The splits are slabs of 12 neighbouring slices, and test slabs touch training slabs: a score says how well a
network interpolates within one subject, and nothing about another person.

The skull is masked out (ch2bet). Slices are padded to 224 x 224, not resampled; anterior is up, the subject's
left is on the left. Regions that reach beyond the mask, where the image is black, are not labelled.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from script import arguments, finish, run

from stagekit.data.classes import Classes
from stagekit.data.folder import Sample, write_folder
from stagekit.data.images import Pixels
from stagekit.data.palette import IGNORE
from stagekit.errors import DatasetError

SIZE = 224
SLAB = 12
SPLITS = ("train", "test", "val", "train")  # in turn, so that every group of regions occurs in each
TISSUE = 2000  # a slice counts from so many square millimetres of brain

# AAL numbers its regions by lobe: 2001 Precentral_L ... 9170 Vermis_10. A group is some prefixes of that number.
GROUPS = {
    "frontal": ("2",),
    "insula": ("3",),
    "cingulate": ("40",),
    "medial temporal": ("41", "42"),
    "occipital": ("5",),
    "parietal": ("6",),
    "basal ganglia": ("70",),
    "thalamus": ("71",),
    "lateral temporal": ("8",),
    "cerebellum": ("9",),
}
CLASSES = Classes(
    names=("other", *GROUPS),
    palette=(
        (96, 96, 96),
        (230, 75, 53),
        (255, 215, 64),
        (0, 160, 135),
        (145, 209, 194),
        (60, 84, 136),
        (77, 187, 213),
        (240, 130, 200),
        (150, 60, 180),
        (120, 190, 60),
        (243, 155, 80),
    ),
    source="ch2 (average of 27 scans of one subject, Holmes et al. 1998) and AAL (Tzourio-Mazoyer et al. 2002), as "
    "Debian's mricron-data carries them. One subject; splits are slabs, so scores are interpolation within it.",
    license="BSD-3-Clause, as mricron-data states in its copyright file",
)


def read_volume(path: Path) -> NDArray[np.uint8]:
    """A gzipped NIfTI-1 file of bytes as (z, y, x), each axis growing towards superior, anterior and right.

    Reads what these templates are and refuses anything else; nibabel reads the whole format.

    Raises:
        DatasetError: when the file is missing, damaged, or another kind of NIfTI.
    """
    remedy = "take it from Debian's mricron-data, and point --templates to its templates folder"
    try:
        content = gzip.decompress(path.read_bytes())
        (header,) = struct.unpack_from("<i", content, 0)
        dimensions, *shape = struct.unpack_from("<4h", content, 40)
        (datatype,) = struct.unpack_from("<h", content, 70)
        (offset,) = struct.unpack_from("<f", content, 108)
        axes = np.array(struct.unpack_from("<12f", content, 280)).reshape(3, 4)[:, :3]
        width, height, depth = shape
        voxels = np.frombuffer(content, np.uint8, width * height * depth, int(offset))
    except FileNotFoundError:
        raise DatasetError("no such file", where=path, remedy=remedy) from None
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise DatasetError(f"expected a gzipped NIfTI-1 volume ({error})", where=path, remedy=remedy) from error
    if header != 348 or content[344:348] != b"n+1\0" or dimensions != 3 or datatype != 2:
        raise DatasetError("expected a little-endian NIfTI-1 volume of bytes", where=path, remedy=remedy)
    if not np.array_equal(axes, np.eye(3)):
        raise DatasetError("expected 1 mm voxels on right-anterior-superior axes", where=path, remedy=remedy)
    return voxels.reshape(depth, height, width)


def read_groups(path: Path) -> NDArray[np.uint8]:
    """From AAL's list of ``index name number`` lines: the class of each region index, uint8 (256,)."""
    prefixes = {prefix: label for label, group in enumerate(GROUPS.values(), start=1) for prefix in group}
    table = np.zeros(256, dtype=np.uint8)
    try:
        for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
            index, _, number = line.split()
            table[int(index)] = prefixes[number[:1]] if number[:1] in prefixes else prefixes[number[:2]]
    except (OSError, ValueError, LookupError) as error:
        raise DatasetError(
            f"expected AAL's list of regions ({error})", where=path, remedy="take it from Debian's mricron-data"
        ) from error
    return table


def padded(plane: Pixels) -> Pixels:
    """A slice (y, x) centred in 224 x 224 zeros, anterior up."""
    height, width = plane.shape
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    return np.pad(plane[::-1], ((top, SIZE - height - top), (left, SIZE - width - left)))


def split_of(z: int) -> str:
    """The split of a slice: its slab's."""
    return SPLITS[z // SLAB % len(SPLITS)]


def samples(
    head: NDArray[np.uint8], brain: NDArray[np.uint8], regions: NDArray[np.uint8], groups: NDArray[np.uint8]
) -> Iterator[tuple[str, Sample]]:
    """The slices with enough brain, from the neck upwards, with their split.

    Grey levels are stretched so that the brightest voxel of the brain is 255.
    """
    inside = brain > 0
    grey = np.where(inside, head, 0).astype(np.float64)
    grey = np.rint(grey * (255 / grey.max())).astype(np.uint8)
    labels = np.where(~inside & (regions > 0), np.uint8(IGNORE), groups[regions])
    for z in range(len(head)):
        if inside[z].sum() >= TISSUE:
            image = np.repeat(padded(grey[z])[..., None], 3, axis=2)
            yield split_of(z), Sample(f"z{z:03d}", image, padded(labels[z]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--templates",
        type=Path,
        default=Path("/usr/share/mricron/templates"),
        help="the folder with ch2.nii.gz, ch2bet.nii.gz, aal.nii.gz, aal.nii.txt (default: %(default)s)",
    )
    given = parser.parse_args()
    head, brain, regions = (read_volume(given.templates / f"{name}.nii.gz") for name in ("ch2", "ch2bet", "aal"))
    slices = samples(head, brain, regions, read_groups(given.templates / "aal.nii.txt"))
    finish(write_folder(given.out, CLASSES, slices), given.preview)


if __name__ == "__main__":
    run(main)
