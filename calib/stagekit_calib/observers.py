"""Looking at tensors while a chain runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stagekit.errors import GraphError
from stagekit.quant.adapters import adapter_keys
from stagekit.quant.stages import chain_hashes, chain_positions
from stagekit.quant.statistics import Statistics, observe
from stagekit.runtime.program import Call
from stagekit_calib.chain import Chain, OrtGraph

Array = np.ndarray[Any, Any]


class Observer:
    """Runs a chain's graphs and keeps statistics of all tensors whose ranges matter.

    A boundary's statistics cover what its stage gives and what any SPM makes of it. SPMs and heads are watched as
    well, so that they too can become integers.

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
        places = [chain_positions(chain.stages, integer_only=only) for only in (False, True)]
        for (stage, graph), *positions in zip(chain.stages, *places, strict=True):
            for tensor in dict.fromkeys(t for p in positions for t in p.sources):
                hashed = hashes[stage][tensor]
                self.places[hashed] = maker.get(tensor, stage), tensor
                self._watched[self.places[hashed][0]][hashed] = tensor
            maker |= {s.name: stage for s in graph.outputs}
        by_name = {tensor: h for h, (_, tensor) in self.places.items()}
        for label, boundary in chain.boundaries.items():
            if boundary in by_name:
                self._watched[label][by_name[boundary]] = "prompted"
        for label, adapter in chain.adapters.items():
            keys = adapter_keys(chain.graphs[label], adapter)
            self.places |= {hashed: (label, tensor) for tensor, hashed in keys.items()}
            self._watched[label] |= {hashed: tensor for tensor, hashed in keys.items()}
        self._graphs = {
            label: OrtGraph(g, [t for t in dict.fromkeys(self._watched[label].values()) if t not in _inputs(g)])
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
        for hashed, tensor in self._watched[call.label].items():
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
