"""Checkpoints: one safetensors file each, replaced atomically; scalars are JSON in its header. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from stagekit.errors import BundleError
from stagekit.models.prompted import PromptedNetwork

_BACKBONE = "backbone."


@dataclass(frozen=True, slots=True)
class Progressed:
    """Where a run stands.

    Attributes:
        recipe: digest of the recipe that it follows.
        data: digest of the data set's content.
        steps: optimizer steps done.
        seconds: spent on them.
        best_step: whose weights scored best on ``val``; None before the first score.
        best_miou: their score, 0 to 1.
        miou: the latest score.
    """

    recipe: str
    data: str
    steps: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_miou: float | None = None
    miou: float | None = None


def tuned_state(network: PromptedNetwork, frozen: bool) -> dict[str, Tensor]:
    """What learns, with its statistics: without the backbone where that is frozen."""
    return {
        name: tensor for name, tensor in network.state_dict().items() if not (frozen and name.startswith(_BACKBONE))
    }


def load_tuned(network: PromptedNetwork, state: Mapping[str, Tensor]) -> None:
    """The reverse of :func:`tuned_state`.

    Raises:
        BundleError: the tensors are another network's.
    """
    own = network.state_dict()
    wrong = [n for n, t in own.items() if not n.startswith(_BACKBONE) and (n not in state or state[n].shape != t.shape)]
    if wrong or set(state) - set(own):
        raise BundleError(
            f"the checkpoint is another network's: {', '.join(wrong[:5] or sorted(set(state) - set(own)))}"
        )
    network.load_state_dict(dict(state), strict=False)


def save(
    path: Path, network: PromptedNetwork, frozen: bool, progressed: Progressed, optimizer: Optimizer | None = None
) -> None:
    """Writes a checkpoint; with an optimizer also its state and the random generators', all that resuming needs."""
    tensors = {f"network.{name}": tensor for name, tensor in tuned_state(network, frozen).items()}
    if optimizer is not None:
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in entries.items() if isinstance(v, Tensor)}
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_suffix(".part")
    save_file(contiguous, temporary, metadata={"progressed": json.dumps(asdict(progressed))})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def progress_in(path: Path) -> Progressed:
    """Where the run of a checkpoint stands.

    Raises:
        BundleError: the file is missing or damaged.
    """
    with _opened(path) as file:
        return _progressed(file)


def load(path: Path, network: PromptedNetwork, optimizer: Optimizer | None = None) -> Progressed:
    """Restores what :func:`save` wrote.

    Raises:
        BundleError: the file is missing, damaged or another network's.
    """
    with _opened(path) as file:
        progressed = _progressed(file)
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    load_tuned(network, _part(tensors, "network."))
    if optimizer is not None:
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in _part(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
    return progressed


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"not a readable checkpoint ({error})", where=path, remedy="delete it, and tune again without --resume"
        ) from error


def _progressed(file: Any) -> Progressed:
    return Progressed(**json.loads((file.metadata() or {})["progressed"]))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
