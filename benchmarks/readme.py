"""Writes the tables of measured results into README.md, from the JSON files under benchmarks/results.

python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import click
from device_page import drawn, figure, percent, plain, timed
from methods_report import NAMES, read_rows, scored, summary
from place import place_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
END = "<!-- /{name} -->"
BEGIN = "<!-- {name}: benchmarks/readme.py -->"


@click.command()
@click.option("--check", is_flag=True, help="Only say whether README.md is what the files give.")
def main(check: bool) -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    wanted = text
    for name, content in (
        ("headline", headline()),
        ("sharing", sharing()),
        ("methods", methods()),
        ("measured", tables()),
    ):
        wanted = placed(wanted, name, content)
    if check:
        if wanted != text:
            raise click.ClickException("README.md is not what benchmarks/results gives; run benchmarks/readme.py")
        return
    readme.write_text(wanted)


def placed(text: str, name: str, content: str) -> str:
    """The text with what stands between a pair of markers replaced."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise click.ClickException(f"README.md has no {begin} ... {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def headline() -> str:
    """Time and accuracy of the real tasks by profile, from what `docs/benchmarks.md` is made from."""
    data = json.loads((RESULTS / "device.json").read_text())
    shown = [row for row in data["rows"] if row["trained"]]
    lines = [
        "| backbone and tasks | profile | ms an image | images/s | mIoU % | engines MB |",
        "|---|---|---|---|---|---|",
    ]
    before = ""
    for row in shown:
        name = f"{row['model']}: {', '.join(row['tasks'])}"
        time = row["p50_ms"] or row["stages_ms"]
        short = {k: v for k, v in time.items() if k in ("value", "kind")} if time else None
        shown_time = timed(row, short) if row["p50_ms"] else figure(short)
        lines.append(
            f"| {'' if name == before else name} | {row['device'] or row['deployment']} | {shown_time} |"
            f" {timed(row, row['images_per_second'])} | {', '.join(map(percent, row['miou'].values()))} |"
            f" {plain(row['engines_mb'])} |"
        )
        before = name
    notes = [
        f"\nOn {place_of(data)}: the median of one image with all its tasks, from pixels to label maps."
        "\nOf emulated devices the frozen stages alone, *modelled*; their labels are the device's, bit for bit."
        "\nAll of it, and how to run it again: [docs/benchmarks.md](docs/benchmarks.md)."
    ]
    if any(row["noisy"] for row in shown):
        notes.append("\n† The machine was not quiet, so that the time is a rough one.")
    picture = drawn(shown, "docs/images/benchmarks.svg")
    return "\n".join([*([picture, ""] if picture else []), *lines, *notes])


def sharing() -> str:
    """Many tasks on one backbone against as many whole models, on ONNX Runtime in float32."""
    lines = [
        "| eight tasks on one backbone, ort-f32 | against eight uncut models | memory MB | theirs | a ninth added in |",
        "|---|---|---|---|---|",
    ]
    for row in rows("multi_task.json"):
        if row["profile"] == "ort-f32":
            first = row["prompted_from"]
            where = f"SPMs from boundary {first} on" if isinstance(first, int) else "heads alone"
            lines.append(
                f"| {row['model'].partition('-')[0]}, {where} | {row['speedup']:.2f} x as fast |"
                f" {row['rss_mb']:.0f} | {row['rss_uncut_mb']:.0f} | {row['add_seconds']} s |"
            )
    return "\n".join(lines)


def methods() -> str:
    """What prompts are worth: test scores of the headline's runs, full tuning with the better of its two ways."""
    found = scored(read_rows(RESULTS / "methods"), "headline", "layer-decay")
    lines = [
        "| task, backbone | head alone | SPMs and head | full tuning | MB a task: SPMs and head, full |",
        "|---|---|---|---|---|",
    ]
    for task, backbone in sorted({(task, backbone) for task, backbone, *_ in found}):
        head, spm, full = (found[task, backbone, "headline", method] for method in ("head", "spm", "full"))
        ways = full, found.get((task, backbone, "layer-decay", "full"), full)
        best = max(ways, key=lambda some: mean(row["val_miou"] for row in some))
        scores = " | ".join(summary([row["miou"] for row in some]) for some in (head, spm, best))
        sizes = f"{spm[0]['megabytes']:.1f}, {best[0]['megabytes']:.0f}"
        lines.append(f"| {task}, {NAMES[backbone]} | {scores} | {sizes} |")
    return "\n".join(lines)


def tables() -> str:
    return "\n\n".join([accuracy(), costs(), modelled()])


def accuracy() -> str:
    """mIoU of each example task: torch, and every compiled profile; int8 where it was measured on this bundle."""
    found: dict[str, dict[str, float]] = {}
    pictures: dict[str, int] = {}
    for row in rows("task_accuracy.json"):
        found.setdefault(row["task"], {"torch": row["miou_float"]})[row["target"]] = row["miou"]
        pictures[row["task"]] = row["images"]
    for row in rows("calibration.json"):
        scores = found.get(row.get("task", ""), {})
        default = row.get("method") == "percentile" and row["backbone"] == "lite0"
        if default and abs(row["miou_float"] - scores.get("torch", 0)) < 0.01:
            scores[row["profile"]] = row["miou_int8"]
    columns = list(dict.fromkeys(c for scores in found.values() for c in scores))
    lines = [
        "Tasks on one frozen EfficientNet-Lite0 (224 x 224): mIoU in percent on held-out pictures, torch and compiled",
        "(`benchmarks/task_accuracy.py`, `benchmarks/calibration.py`). Brain slices are of one subject: interpolation.",
        "",
        f"| task (pictures) | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
    ]
    for task, scores in found.items():
        cells = " | ".join(f"{scores[c]:.2f}" if c in scores else "-" for c in columns)
        lines.append(f"| {task} ({pictures[task]}) | {cells} |")
    return "\n".join(lines)


def costs() -> str:
    """Compiling again, memory, start-up."""
    lines = ["| what | measured |", "|---|---|"]
    for row in rows("compile_cache.json"):
        lines.append(
            f"| compiling {row['model']} ({row['bundle_bytes'] / 1e6:.0f} MB) again, every byte rehashed |"
            f" {row['seconds']:.2f} s (first {row['first_seconds']:.1f} s;"
            f" `sha256sum` {row['sha256sum_seconds']:.2f} s) |"
        )
    for row in rows("run_memory.json"):
        lines.append(
            f"| peak memory of the stages of {row['model']} on {row['target']}, beside the uncut model |"
            f" {row['staged_mb']:.0f} MB, {row['uncut_mb']:.0f} MB |"
        )
    startup = {row["command"]: row["seconds"] for row in rows("startup.json")}
    for command in ("stagekit --help", "stagekit compile --help"):
        lines.append(f"| `{command}` | {1000 * startup[command]:.0f} ms |")
    return "\n".join(lines)


def modelled() -> str:
    """The device model's error on rows that it was not fitted on."""
    test = [row for row in rows("device_model.json") if not row["used_in_fit"]]
    ours, constant = (
        sum(abs(r[key] / r["published_fps"] - 1) for r in test) / len(test) for key in ("modelled_fps", "constant_fps")
    )
    return (
        f"Device model of the fixed-point target, *modelled* against *published* frames per second on {len(test)} rows"
        f"\nthat it was not fitted on (`benchmarks/device_model.py`): mean error {ours:.1%}; a constant utilisation"
        f" {constant:.1%}."
    )


def rows(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RESULTS / name).read_text())["rows"]
    return found


if __name__ == "__main__":
    main()
