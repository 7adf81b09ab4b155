"""What a loaded engine is made of and where its time goes: the inspector's layers and a profiler's milliseconds.

They need a GPU; ``make test-gpu`` writes both into gpu-report.json.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from stagekit.target import Buffer
from stagekit_tensorrt.builder.vendors import Differences
from stagekit_tensorrt.engine import TrtEngine


def inspect(engine: TrtEngine, trt: ModuleType, row: Differences) -> dict[str, Any]:
    """The engine inspector's JSON with one spelling of its keys: ``layers`` and ``edges``.

    Detailed where the engine was built with ``verbosity = "detailed"``, else layer names alone.
    """
    inspector = engine.vendor_engine.create_engine_inspector()
    found = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return {"layers": found.get("Layers", []), "edges": found.get(row.inspector_edges, [])}


def layer_times(
    engine: TrtEngine, trt: ModuleType, inputs: Sequence[Buffer], batch: int, runs: int = 20
) -> list[dict[str, Any]]:
    """Mean milliseconds of each layer over some calls, in the order of execution.

    A profiled call waits for each layer in turn, so the sum is more than an ordinary call takes.
    """
    spent: dict[str, list[float]] = defaultdict(list)

    class Times(trt.IProfiler):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            spent[layer_name].append(ms)

    lane, times = engine.lane(), Times()
    for _ in range(3):
        lane.submit(inputs, batch).wait()
    lane.context.profiler = times
    for _ in range(runs):
        lane.submit(inputs, batch).wait()
    lane.close()
    return [{"layer": name, "ms": sum(values) / len(values)} for name, values in spent.items()]
