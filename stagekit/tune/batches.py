"""Batches of frames: a pure function of seed and index, so that a run resumes without any state of its data."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from stagekit.cpu import usable_cores
from stagekit.data.dataset import Dataset
from stagekit.data.geometry import Geometry, Resize
from stagekit.data.images import Pixels
from stagekit.data.rescale import cover, rescale, rescale_labels
from stagekit.tune.augment import Augment

MEMORY = 1 << 30
"""Bytes of decoded images and labels that are kept; past it, files are read again each time."""


@dataclass(frozen=True, slots=True)
class Fit:
    """An image and its labels to what augmentation draws from.

    Args:
        size: of the frame, (height, width) in pixels.
        resize: of the recipe's ``[data]``.
        windows: will be cut, from the image at the resolution that ``resize`` says; otherwise it becomes a frame.
    """

    size: tuple[int, int]
    resize: Resize = "stretch"
    windows: bool = False

    def __call__(self, image: Pixels, labels: Pixels) -> tuple[Pixels, Pixels]:
        if not self.windows:
            geometry = Geometry(*self.size, self.resize)
            return geometry.apply(image)[0], geometry.apply_to_labels(labels)
        if self.resize == "crop":
            scaled = cover((image.shape[0], image.shape[1]), self.size)
            return rescale(image, *scaled), rescale_labels(labels, *scaled)
        return image, labels


class Images:
    """The images of a split with their labels, by position; small sets stay in memory.

    Args:
        dataset: to read from.
        split: whose images.
        fit: is done to each first.
    """

    def __init__(self, dataset: Dataset, split: str, fit: Fit) -> None:
        self.dataset, self.fit = dataset, fit
        self.stems = dataset.stems(split)
        self._kept: dict[int, tuple[Pixels, Pixels]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, position: int) -> tuple[Pixels, Pixels]:
        if position in self._kept:
            return self._kept[position]
        _, *read = self.dataset.read(self.stems[position])
        image, labels = self.fit(*read)
        if self._bytes + image.nbytes + labels.nbytes <= MEMORY:
            self._bytes += image.nbytes + labels.nbytes
            self._kept[position] = image, labels
        return image, labels


class Draw(IntEnum):
    """What randomness is for; each has a stream of its own."""

    ORDER = 0
    AUGMENT = 1
    CACHE = 2
    VARIANT = 3


def generator(seed: int, draw: Draw, number: int) -> np.random.Generator:
    """The same whichever process asks, and however often."""
    return np.random.default_rng((seed, draw, number))


class Order:
    """Which image comes when: a new permutation each epoch, drawn from the seed."""

    def __init__(self, images: int, batch: int, seed: int) -> None:
        self.images, self.batch, self.seed = images, batch, seed
        self._epoch, self._permutation = -1, np.arange(images)

    def places(self, index: int) -> list[tuple[int, int]]:
        """For each slot of batch ``index``: its running number since the start, and the position of its image."""
        return [
            (n, self._position(*divmod(n, self.images))) for n in range(index * self.batch, (index + 1) * self.batch)
        ]

    def _position(self, epoch: int, place: int) -> int:
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = generator(self.seed, Draw.ORDER, epoch).permutation(self.images)
        return int(self._permutation[place])


class Batches(TorchDataset[tuple[Tensor, Tensor]]):
    """Batch ``index``: frames uint8 (batch, height, width, 3) and labels uint8 (batch, height, width)."""

    def __init__(self, images: Images, augment: Augment, batch: int, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed
        self.order = Order(len(images), batch, seed)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        drawn = [
            self.augment(*self.images[position], generator(self.seed, Draw.AUGMENT, number))
            for number, position in self.order.places(index)
        ]
        return torch.from_numpy(np.stack([f for f, _ in drawn])), torch.from_numpy(np.stack([y for _, y in drawn]))


def load(batches: Batches, start: int, end: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``start`` to ``end`` - 1, loaded ahead by ``workers`` processes, one a core at most; in this one if 0."""
    # A generator of its own: otherwise each iterator takes a number from torch's global one, and a resumed run,
    # which makes one iterator more, would differ from an uninterrupted one.
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, end),
        num_workers=min(workers, usable_cores()),
        generator=torch.Generator(),
        worker_init_fn=_leave_interrupts_to_the_loop,
    )
    yield from loader


def _leave_interrupts_to_the_loop(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal's group; a loader that dies of it would take the checkpoint along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
