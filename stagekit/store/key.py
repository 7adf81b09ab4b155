"""An engine's name: the hash of everything that its bytes depend on, and of nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stagekit.graph.spec import TensorSpec

REVISION: Final = 1
"""Counts the store's formats. It enters every key, so versions that differ in it share a store without meeting."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine is a pure function of.

    Quantisation is in the graph, as Q/DQ nodes with their scales; the calibration record that they came from,
    file names, clocks and the names of profiles do not count.

    Args:
        graph: the graph's fingerprint, in hex.
        inputs: edge formats, in the graph's order.
        outputs: likewise.
        target: the target's name.
        profile: :meth:`stagekit.target.Profile.digest`.
        toolchain: :meth:`stagekit.target.Target.toolchain`.
        device: :meth:`stagekit.target.Target.device`.
    """

    graph: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    target: str
    profile: str
    toolchain: str
    device: str

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the key's parts and the store's revision, in hex."""
        return hashlib.sha256(canonical({"revision": REVISION, **self.to_dict()})).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The parts in clear, for JSON; :meth:`from_dict` is its inverse."""
        return {
            "graph": self.graph,
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": [spec.to_dict() for spec in self.outputs],
            "target": self.target,
            "profile": self.profile,
            "toolchain": self.toolchain,
            "device": self.device,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineKey:
        return cls(
            graph=data["graph"],
            inputs=tuple(TensorSpec.from_dict(spec) for spec in data["inputs"]),
            outputs=tuple(TensorSpec.from_dict(spec) for spec in data["outputs"]),
            target=data["target"],
            profile=data["profile"],
            toolchain=data["toolchain"],
            device=data["device"],
        )


def canonical(data: Any) -> bytes:
    """The one way to write ``data`` as JSON: sorted keys, no spaces, ASCII.

    Raises:
        TypeError, ValueError: something in it is not JSON, which has no NaN and no infinity.
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def is_digest(text: str) -> bool:
    """Whether ``text`` is a SHA-256 in lower-case hex; anything else must not become part of a path."""
    return _DIGEST.fullmatch(text) is not None
