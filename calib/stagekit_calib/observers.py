"""Looking at tensors while a chain runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stagekit.errors import GraphError
from stagekit.quant.stages import chain_hashes, chain_positions
from stagekit.quant.statistics import Statistics, observe
from stagekit.runtime.program import Call
from stagekit_calib.chain import Chain, OrtGraph

Array = np.ndarray[Any, Any]


class Observer:
    """Runs a chain's graphs and keeps statistics of all tensors whose ranges matter.

    A boundary's statistics cover what its stage gives and what any SPM makes of it.

    Args:
        chain: of float graphs.
    """

    def __init__(self, chain: Chain) -> None:
        self.statistics: dict[str, Statistics] = {}
        self.places: dict[str, tuple[str, str]] = {}
        self.image = ""
        self._watched: dict[str, dict[str, str]] = {label: {} for label in chain.graphs}
        hashes = chain_hashes(chain.stages)
        maker: dict[str, str] = {}
        for (stage, graph), positions in zip(chain.stages, chain_positions(chain.stages), strict=True):
            for tensor in positions.sources:
                hashed = hashes[stage][tensor]
                self.places[hashed] = maker.get(tensor, stage), tensor
                self._watched[self.places[hashed][0]][tensor] = hashed
            maker |= {s.name: stage for s in graph.outputs}
        by_name = {tensor: h for h, (_, tensor) in self.places.items()}
        for label, boundary in chain.boundaries.items():
            if boundary in by_name:
                self._watched[label]["prompted"] = by_name[boundary]
        self._graphs = {
            label: OrtGraph(g, [t for t in self._watched[label] if t not in _inputs(g)])
            for label, g in chain.graphs.items()
        }

    def run(self, call: Call, inputs: list[Array]) -> list[Array]:
        """One call, observed; see :func:`stagekit_calib.chain.execute`.

        Raises:
            GraphError: a tensor holds NaN or infinity; names it and the image.
        """
        graph = self._graphs[call.label]
        outputs, named = graph.run(inputs)
        named |= dict(zip(graph.inputs, inputs, strict=True))
        for tensor, hashed in self._watched[call.label].items():
            values = named[tensor]
            if not np.isfinite(values.min()) or not np.isfinite(values.max()):
                raise GraphError(
                    f"the tensor {tensor!r} of {call.label} is not finite on image {self.image!r}",
                    where=call.label,
                    remedy="check the image and the weights; statistics taken so far are kept",
                )
            seen = observe(values, channel_axis(values.ndim))
            known = self.statistics.get(hashed)
            self.statistics[hashed] = seen if known is None else known.merge(seen)
        return outputs


def channel_axis(rank: int) -> int:
    """Maps have their channels second, everything else last."""
    return 1 if rank == 4 else -1


def _inputs(graph: Any) -> Mapping[str, None]:
    return dict.fromkeys(s.name for s in graph.inputs)
