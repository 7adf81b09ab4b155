"""The main job on real input: one frozen backbone, two tasks, two runtimes.

Partitions EfficientNet-Lite0 with its ImageNet weights, compiles its stages and two tuned tasks for ONNX
Runtime and OpenVINO, runs both tasks on satellite pictures that no task was trained on, compares the two
runtimes, and writes overlays to ``out/demo``. Last it measures both deployments for a few seconds, as
``stagekit bench`` does, and writes ``report.html``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import stagekit
from stagekit.bench import results
from stagekit.bench.report import write_page
from stagekit.bundle import StagesManifest, TaskManifest, read_manifest
from stagekit.data.folder import Folder
from stagekit.data.images import read_image, write_image
from stagekit.data.metrics import Confusion
from stagekit.data.overlay import legend, overlay, side_by_side, stacked, titles
from stagekit.models.weights import find_packaged_weights
from stagekit.targets import get

HERE = Path(__file__).parent
OUT = Path("out/demo")
TASKS = ("landcover", "sea")
TARGETS = ("onnxruntime", "openvino")
LOOK = ("--scenario", "SingleStream", "--scenario", "Offline", "--seconds", "3", "--queries", "64", "--rounds", "10")


def main() -> None:
    begun = time.perf_counter()
    OUT.mkdir(parents=True, exist_ok=True)
    stages = OUT / "lite0.stages"
    weights = find_packaged_weights("efficientnet_lite0")
    step("cutting EfficientNet-Lite0 (ImageNet weights) into frozen stages")
    bundle: StagesManifest = stagekit.partition("efficientnet_lite0", stages, weights=weights)
    step(f"  {len(bundle.stages)} stages, {sum(s.macs for s in bundle.stages) / 1e9:.2f} GMAC a picture")
    report: dict[str, Any] = {"backbone": bundle.backbone.id, "targets": {}, "tasks": {}}
    results = {target: deploy_and_run(target, stages, report) for target in TARGETS if available(target)}
    for task in TASKS:
        report["tasks"][task] = compare(task, results)
    write_overview(next(iter(results.values())))
    write_benchmark([deployment_of(target) for target in results])
    report["seconds"] = round(time.perf_counter() - begun, 1)
    (OUT / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print_report(report)


def available(target: str) -> bool:
    found = get(target).probe()
    if not found.run:
        step(f"  {target} is left out: {found.reason}")
    return found.run


def deploy_and_run(target: str, stages: Path, report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Label maps by task and picture on one target."""
    deployment = deployment_of(target)
    step(f"compiling stages and {len(TASKS)} tasks for {target}")
    tasks = [HERE / f"{name}.task" for name in TASKS]
    compiled = stagekit.compile([stages, *tasks], target=target, output=deployment)
    built = [e for e in compiled.engines if not e.cached]
    labels: dict[str, dict[str, Any]] = {name: {} for name in TASKS}
    times: list[float] = []
    with stagekit.Session(deployment) as session:
        for path in pictures():
            image = read_image(path)
            begun = time.perf_counter()
            given = session.run(image)
            times.append(time.perf_counter() - begun)
            for name, value in given.items():
                labels[name][path.stem] = value
        shared = sum(session.statistics.shared.values())
        made = sum(session.statistics.calls.values())
    report["targets"][target] = {
        "toolchain": compiled.manifest.toolchain,
        "engines_built": len(built),
        "engines_from_store": len(compiled.engines) - len(built),
        "compile_seconds": round(sum(e.seconds for e in compiled.engines), 2),
        "median_ms_for_all_tasks": round(1000 * float(np.median(times)), 2),
        "calls_made": made,
        "calls_shared": shared,
    }
    return labels


def deployment_of(target: str) -> Path:
    return OUT / f"lite0-{target}.deploy"


def pictures() -> list[Path]:
    return sorted((HERE / "pictures" / "landcover" / "images").glob("*.png"))


def compare(task: str, results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Accuracy on each target and agreement between them; writes the pictures."""
    manifest = read_manifest(HERE / f"{task}.task", TaskManifest)
    truth = {s.stem: s for s in Folder.open(HERE / "pictures" / task).samples("test")}
    palette = [c.color for c in manifest.classes]
    facts: dict[str, Any] = {"miou": {}, "test_metrics": [m.model_dump() for m in manifest.metrics]}
    for target, labels in results.items():
        confusion = Confusion(len(manifest.classes))
        for stem, sample in truth.items():
            confusion.update(labels[task][stem], sample.mask)
        facts["miou"][target] = round(100 * confusion.miou(), 2)
    first, *others = results.values()
    same = [np.mean(first[task][stem] == other[task][stem]) for other in others for stem in first[task]]
    facts["agreement"] = round(float(np.mean(same)), 5) if same else None
    columns = ["picture", "truth", *results]
    rows = []
    for stem, sample in truth.items():
        panels = [sample.image, overlay(sample.image, sample.mask, palette)]
        panels += [overlay(sample.image, labels[task][stem], palette) for labels in results.values()]
        rows.append(side_by_side(panels))
    head = titles(columns, [panel.shape[1] for panel in panels])
    picture = stacked([head, *rows, legend([c.name for c in manifest.classes], palette, rows[0].shape[1])])
    write_image(OUT / f"{task}.png", picture)
    facts["picture"] = str(OUT / f"{task}.png")
    facts["columns"] = columns
    return facts


def write_overview(labels: dict[str, dict[str, Any]]) -> None:
    """Both tasks side by side on four pictures: one backbone, two answers."""
    manifests = {task: read_manifest(HERE / f"{task}.task", TaskManifest) for task in TASKS}
    palettes = {task: [c.color for c in manifest.classes] for task, manifest in manifests.items()}
    columns = []
    for path in pictures()[1:5]:
        image = read_image(path)
        columns.append(stacked([image, *(overlay(image, labels[t][path.stem], palettes[t]) for t in TASKS)]))
    picture = side_by_side(columns)
    keys = [legend([c.name for c in manifests[t].classes], palettes[t], picture.shape[1]) for t in TASKS]
    write_image(OUT / "overview.png", stacked([picture, *keys]))


def write_benchmark(deployments: list[Path]) -> None:
    """Time, accuracy and memory of what was compiled: a first look, too short to be quoted."""
    folder = OUT / "bench"
    data = [option for task in TASKS for option in ("--data", f"{task}={HERE / 'pictures' / task}")]
    made: list[Path] = []
    for deployment in deployments:
        step(f"measuring {deployment.stem} for a few seconds")
        compared = ["--reference", str(made[0])] if made else []
        # A process each, so that memory is a deployment's own.
        command = [sys.executable, "-m", "stagekit", "bench", str(deployment), "-o", str(folder), "--no-report"]
        subprocess.run([*command, *LOOK, *data, *compared], check=True, stdout=subprocess.DEVNULL)
        made.append(folder / f"{deployment.stem}.json")
    found = [(results.read(path), folder) for path in made]
    write_page(found, OUT / "report.html", "Two tasks on one backbone: a first look")


def step(text: str) -> None:
    print(text, flush=True)


def print_report(report: dict[str, Any]) -> None:
    print()
    for target, facts in report["targets"].items():
        print(
            f"{target:12} {facts['engines_built']:2} engines built, {facts['engines_from_store']:2} from the store,"
            f" {facts['median_ms_for_all_tasks']:6.1f} ms for {len(TASKS)} tasks on a picture,"
            f" {facts['calls_shared']} of {facts['calls_made'] + facts['calls_shared']} calls shared"
        )
    for task, facts in report["tasks"].items():
        scores = ", ".join(f"{target} {value:.1f}" for target, value in facts["miou"].items())
        agreement = "" if facts["agreement"] is None else f"; the runtimes agree on {facts['agreement']:.3%} of pixels"
        print(f"{task:12} mIoU on the pictures: {scores}{agreement}")
    print(f"\nDone in {report['seconds']} s. Look at:")
    for facts in report["tasks"].values():
        print(f"  {facts['picture']:28} columns: {', '.join(facts['columns'])}")
    print(f"  {OUT / 'report.html'!s:28} the benchmark, for a browser")
    print(f"  {OUT / 'report.json'!s:28} the same run as data")


if __name__ == "__main__":
    main()
