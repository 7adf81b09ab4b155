"""Times that a target models for a device that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stagekit.bench.modelled import modelled, modelled_for
from stagekit.build.compile import compile
from stagekit.store import Store


def test_what_tasks_share_counts_once(zoo: Any, tmp_path: Path) -> None:
    bundles = [zoo.stages, zoo.tasks["land"], zoo.tasks["sea"]]
    manifest = compile(bundles, profile="ort-f32", store=Store(tmp_path / "store")).manifest
    land, sea = manifest.tasks
    reports: dict[str, dict[str, Any]] = {
        e.digest: {"latency_ms": 1.0, "label": "modelled for a device"} for e in manifest.engines
    }

    def milliseconds(*tasks: Any) -> float:
        found = modelled(manifest, list(tasks), reports)
        assert found is not None
        assert found.figures["p50"].kind == "modelled"
        return 1e3 * found.figures["p50"].value

    # Three stages, two SPMs and a head; three stages, one SPM and a head; land prompts at the stem already.
    assert milliseconds(land) == pytest.approx(6)
    assert milliseconds(sea) == pytest.approx(5)
    assert milliseconds(land, sea) == pytest.approx(10)
    assert modelled_for(reports) == "modelled for a device"
    reports[sea.head] = {}
    of_stages = modelled(manifest, [land, sea], reports)
    assert of_stages is not None
    found = {name: figure.value for name, figure in of_stages.figures.items()}
    assert found == {"stages": pytest.approx(9e-3)}, "one head runs elsewhere"
    assert modelled(manifest, [land, sea], {}) is None
    assert modelled_for({}) is None
