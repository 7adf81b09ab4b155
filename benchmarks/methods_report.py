"""The tables of docs/results.md from the rows of the comparison: what stands between two markers is replaced."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from methods_plan import ABLATIONS, METHODS, SETTINGS
from parameters import counted

Row = dict[str, Any]
NAMES = {"vit_s14": "ViT-S/14", "efficientnet_lite0": "Lite0"}
PAPER_GAP = {"vit_s14": "54 % (table 9)", "efficientnet_lite0": "60 % (table 2), 84 % (table 3)"}
PAPER_ABLATIONS = {
    "prompts-1": "-5.6 (ResNet-101, table 6), -0.8 (ViT-L, table 9)",
    "prompts-2": "-4.9 (ResNet-101, table 6)",
    "plus-1": "+1.2 (ResNet-101, table 6)",
    "plus-2": "+1.3 (ResNet-101, table 6)",
    "stages-2": "-0.3 (ViT-L, table 9)",
    "no-guidance": "-1.9, -1.0 (ResNet-101, table 7)",
    "single-convolution": "-0.8, -0.5 (ResNet-101, table 7)",
}
"""On ADE20K beside its own five or three SPMs; where there are two, weights of ImageNet and of COCO-Stuff."""
LEAST_GAP = 2.0
"""Points between head and full below which their gap is noise, and a share of it means nothing."""


def render(results: Path, page: Path) -> None:
    """Replaces every block ``<!-- table NAME -->`` to ``<!-- end -->`` of a page.

    Raises:
        KeyError: the page asks for a table that there is not.
    """
    rows = read_rows(results)

    def block(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n{TABLES[found[1]](rows)}\n<!-- end -->"

    text = re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", block, page.read_text(encoding="utf-8"), flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def read_rows(results: Path) -> list[Row]:
    """Every cell of a folder, by the name of its file."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]


def summary(values: Sequence[float]) -> str:
    """Mean in percent, with its standard error where there are several values."""
    shown = f"{100 * mean(values):.1f}"
    return shown if len(values) < 2 else f"{shown} ± {100 * standard_error(values):.1f}"


def gap_closed(head: Sequence[float], spm: Sequence[float], full: Sequence[float]) -> float | None:
    """(spm - head) / (full - head) of mean scores in 0 to 1.

    None where full is not ``LEAST_GAP`` points and two standard errors above head: a share of noise means nothing.
    """
    if not (head and spm and full):
        return None
    gap = mean(full) - mean(head)
    settled = min(len(head), len(full)) < 2 or gap >= 2 * standard_error(full, head)
    return (mean(spm) - mean(head)) / gap if 100 * gap >= LEAST_GAP and settled else None


def standard_error(*samples: Sequence[float]) -> float:
    """Of the mean of one sample, or of the difference of two."""
    return math.hypot(*(stdev(values) / math.sqrt(len(values)) for values in samples))


def scored(rows: Iterable[Row], *settings: str) -> dict[tuple[str, str, str, str], list[Row]]:
    """Rows with a test score by (task, backbone, setting, method)."""
    found: dict[tuple[str, str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if "miou" in row and row["setting"] in settings:
            found[row["task"], row["backbone"], row["setting"], row["method"]].append(row)
    return found


def methods_table(*settings: str) -> Callable[[Sequence[Row]], str]:
    """A line for each method of each task, backbone and setting."""

    def table(rows: Sequence[Row]) -> str:
        found = scored(rows, *settings)
        lines = [
            [
                task,
                NAMES[backbone],
                method if len(settings) == 1 else f"{method}, {setting}",
                summary([row["miou"] for row in some]),
                str(len(some)),
                summary([row["val_miou"] for row in some]),
                f"{some[0]['parameters'] / 1e6:.3f}",
                f"{some[0]['megabytes']:.2f}",
                f"{100 * some[0]['macs_share']:.1f} %",
                str(some[0]["steps"]),
                f"{mean(row['cpu_seconds'] + row['caching_cpu_seconds'] for row in some):.0f}",
            ]
            for (task, backbone, setting, method), some in sorted(found.items(), key=_order)
        ]
        return _markdown(
            "task | backbone | method | mIoU test | seeds | val | M learned | MB a task | MACs added | steps | CPU s",
            lines,
        )

    return table


def gaps_table(setting: str, full_in: str = "") -> Callable[[Sequence[Row]], str]:
    """How far ``spm`` lies above the other heads, and how much of the way from head to full it goes.

    Args:
        full_in: setting of ``full``'s runs, if it is another; only pairs that have some are shown.
    """

    def table(rows: Sequence[Row]) -> str:
        found = scored(rows, setting, full_in)
        lines = []
        for task, backbone in dict.fromkeys((task, backbone) for task, backbone, *_ in sorted(found, key=str)):
            settings = {m: full_in if full_in and m == "full" else setting for m in METHODS}
            scores = {m: [row["miou"] for row in found.get((task, backbone, settings[m], m), [])] for m in METHODS}
            if not (scores["head"] and scores["spm"] and (scores["full"] or not full_in)):
                continue
            share = gap_closed(scores["head"], scores["spm"], scores["full"])
            lines.append(
                [
                    task,
                    NAMES[backbone],
                    difference(scores["spm"], scores["head"]),
                    difference(scores["spm"], scores["head-wide"]),
                    difference(scores["full"], scores["head"]),
                    "-" if share is None else f"{100 * share:.0f} %",
                    PAPER_GAP[backbone],
                ]
            )
        return _markdown(
            "task | backbone | spm - head | spm - head-wide | full - head | gap closed | the paper's", lines
        )

    return table


def by_class(rows: Sequence[Row]) -> str:
    """IoU of every class, a mean over seeds; what no pixel of truth or prediction has counts for nothing."""
    found = scored(rows, "headline")
    methods = [m for m in METHODS if m != "scratch"]
    lines = []
    for task, backbone in sorted({(t, b) for t, b, *_ in found}, key=lambda pair: (pair[0], pair[1] != "vit_s14")):
        runs = {m: [row["iou"] for row in found.get((task, backbone, "headline", m), [])] for m in methods}
        for name in next(iter(filter(None, runs.values())))[0]:
            known = [[iou[name] for iou in runs[m] if iou[name] is not None] for m in methods]
            lines.append([task, NAMES[backbone], name, *(f"{100 * mean(v):.1f}" if v else "-" for v in known)])
    return _markdown(" | ".join(["task", "backbone", "class", *methods]), lines)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Of two means in points, with its standard error where both have several values, and how many these are."""
    if not (ours and theirs):
        return "-"
    shown = f"{100 * (mean(ours) - mean(theirs)):+.1f}"
    if min(len(ours), len(theirs)) < 2:
        return shown
    return f"{shown} ± {100 * standard_error(ours, theirs):.1f} ({len(ours)}, {len(theirs)})"


def ablations(rows: Sequence[Row]) -> str:
    """A line for each setting, beside the headline's run of the same seed, on the same batches and processor."""
    found = scored(rows, "headline", "repeat", *ABLATIONS)

    def runs(*settings: str) -> dict[tuple[int, str], Row]:
        chosen = [row for setting in settings for row in found.get(("brain", "vit_s14", setting, "spm"), [])]
        return {(row["seed"], row.get("processor", "")): row for row in chosen}

    base = runs("headline", "repeat")
    lines = []
    for setting in ("headline", *ABLATIONS):
        some = base if setting == "headline" else runs(setting)
        pairs = [100 * (some[key]["miou"] - base[key]["miou"]) for key in sorted(some.keys() & base.keys())]
        if not pairs:
            continue
        first = next(iter(some.values()))
        beside = f"{mean(pairs):+.1f}"
        beside += f" ± {standard_error(pairs):.1f}" if len(pairs) > 1 else ""
        lines.append(
            [
                setting,
                ", ".join(first["recipe"]["method"]["prompts"]),
                summary([row["miou"] for row in some.values()]),
                "" if setting == "headline" else beside,
                str(len(pairs)),
                summary([row["val_miou"] for row in some.values()]),
                f"{first['parameters'] / 1e6:.3f}",
                f"{100 * first['macs_share']:.1f} %",
                PAPER_ABLATIONS.get(setting, ""),
            ]
        )
    return _markdown(
        "setting | prompts | mIoU test | beside the headline | seeds | val | M learned | MACs added | the paper's",
        lines,
    )


def search(rows: Sequence[Row]) -> str:
    """The candidates, and how they stood on val after their round."""
    lines = [
        [
            row["task"],
            NAMES[row["backbone"]],
            row["setting"],
            row["method"],
            ", ".join(f"{k.removeprefix('lr_')} {v:g}" for k, v in row["rates"].items()),
            f"{100 * row['val_miou']:.1f}",
            str(row["steps"]),
            f"{row['cpu_seconds']:.0f}",
        ]
        for row in sorted(rows, key=lambda r: _order(((r["task"], r["backbone"], r["setting"], r["method"]), r)))
        if row["candidate"] is not None
    ]
    return _markdown("task | backbone | setting | method | rates | mIoU val | steps | CPU s", lines)


def deployability(rows: Sequence[Row]) -> str:
    """From its own file beside the folder of cells."""
    path = Path(__file__).parent / "results" / "deployability.json"
    if not path.is_file():
        return "Not measured yet."
    lines = [
        [
            row["method"],
            str(row["graphs"]),
            str(row["survive"]),
            str(row["shared"]),
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['embed_again'] / 1e6:.2f}",
            str(row["engines"]),
        ]
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]
    ]
    return _markdown(
        "method | backbone graphs | survive | shared by two tasks | M learned | M embedded again | engines a task",
        lines,
    )


def counts(rows: Sequence[Row]) -> str:
    """Parameters beside those that the paper prints; counted anew."""
    lines = [
        [row.part, f"{row.count_m:.2f}", "-" if row.paper_m is None else f"{row.paper_m:.2f}", row.note]
        for row in counted()[0]
    ]
    return _markdown("part | M | the paper's | what is counted", lines)


def work(rows: Sequence[Row]) -> str:
    """Multiply-accumulates beside the backbone's; counted anew."""
    lines = [[row.backbone, row.part, f"{row.gmacs:.0f}", f"{100 * row.share:.0f} %"] for row in counted()[1]]
    return _markdown("backbone | part | GMAC | of the backbone's", lines)


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "headline": methods_table("headline"),
    "equal-time": methods_table("equal-time"),
    "long": methods_table("long", "equal-long-time"),
    "layer-decay": methods_table("layer-decay", "layer-decay-low"),
    "several": methods_table("several"),
    "ablations": ablations,
    "gaps": gaps_table("headline"),
    "classes": by_class,
    "gaps-several": gaps_table("several"),
    "gaps-long": gaps_table("long"),
    "gaps-layer-decay": gaps_table("headline", full_in="layer-decay"),
    "search": search,
    "deployability": deployability,
    "counts": counts,
    "work": work,
}


def _order(item: tuple[tuple[str, str, str, str], object]) -> tuple[object, ...]:
    task, backbone, setting, method = item[0]
    return task, backbone != "vit_s14", list(SETTINGS).index(setting), METHODS.index(method)


def _markdown(header: str, lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return "No runs yet."
    names = header.split(" | ")
    return "\n".join("| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *lines])
