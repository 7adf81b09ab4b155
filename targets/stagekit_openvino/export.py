"""Making OpenVINO's exported models the same bytes each time.

OpenVINO names the nodes that its transformations add after a counter of the process (``Reshape_5550``), and
the names go into the exported file. The file's topology passes through a pair of callbacks meant for
encryption (https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/
optimizing-latency/model-caching-overview.html): here the one on the way out replaces such names.
"""

from __future__ import annotations

import re
from typing import Any

LAYER = re.compile(rb'<layer id="(\d+)" name="([^"]*)" type="([^"]*)"')
COUNTED = re.compile(rb"[A-Z][A-Za-z]*_\d+")
FUSED_NAMES = re.compile(rb'\s*<attribute name="fused_names"[^>]*/>')


def canonical_export() -> dict[str, Any]:
    """The property that gives deterministic exports; needed on import as well."""
    return {"CACHE_ENCRYPTION_CALLBACKS": [without_counters, _unchanged]}


def without_counters(topology: bytes) -> bytes:
    """The XML with counted names replaced by type and position; what a node was fused from is left out."""

    def renamed(layer: re.Match[bytes]) -> bytes:
        number, name, kind = layer.groups()
        if COUNTED.search(name):
            name = kind + b"_" + number
        return b'<layer id="%b" name="%b" type="%b"' % (number, name, kind)

    return FUSED_NAMES.sub(b"", LAYER.sub(renamed, topology))


def _unchanged(topology: bytes) -> bytes:
    return topology
