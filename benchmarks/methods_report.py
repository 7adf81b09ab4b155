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

Row = dict[str, Any]
NAMES = {"vit_s14": "ViT-S/14", "efficientnet_lite0": "Lite0"}
PAPER_GAP = {"vit_s14": "54 % (table 9)", "efficientnet_lite0": "60 % (table 2), 84 % (table 3)"}
LEAST_GAP = 2.0
"""Points between head and full below which their gap is noise, and a share of it means nothing."""


def render(results: Path, page: Path) -> None:
    """Replaces every block ``<!-- table NAME -->`` to ``<!-- end -->`` of a page.

    Raises:
        KeyError: the page asks for a table that there is not.
    """
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]

    def block(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n{TABLES[found[1]](rows)}\n<!-- end -->"

    text = re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", block, page.read_text(encoding="utf-8"), flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def summary(values: Sequence[float]) -> str:
    """Mean in percent, with its standard error where there are several values."""
    shown = f"{100 * mean(values):.1f}"
    return shown if len(values) < 2 else f"{shown} ± {100 * stdev(values) / math.sqrt(len(values)):.1f}"


def gap_closed(head: float, spm: float, full: float) -> float | None:
    """(spm - head) / (full - head) of scores in 0 to 1; None where full is not ``LEAST_GAP`` points above head."""
    gap = full - head
    return (spm - head) / gap if 100 * gap >= LEAST_GAP else None


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


def gaps(rows: Sequence[Row]) -> str:
    """How much of the way from head to full SPMs go."""
    found = scored(rows, "headline")
    lines = []
    for task, backbone in dict.fromkeys((task, backbone) for task, backbone, *_ in sorted(found, key=str)):
        some = {m: found.get((task, backbone, "headline", m), []) for m in METHODS}
        if not (some["head"] and some["spm"]):
            continue
        head, spm = (mean(row["miou"] for row in some[m]) for m in ("head", "spm"))
        full = mean(row["miou"] for row in some["full"]) if some["full"] else math.nan
        closed = gap_closed(head, spm, full) if some["full"] else None
        shown = "full missing" if not some["full"] else "gap too small" if closed is None else f"{100 * closed:.0f} %"
        lines.append(
            [
                task,
                NAMES[backbone],
                f"{100 * (spm - head):+.1f}",
                f"{100 * (full - head):+.1f}" if some["full"] else "-",
                shown,
                PAPER_GAP[backbone],
            ]
        )
    return _markdown("task | backbone | spm - head | full - head | gap closed | the paper's", lines)


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


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "headline": methods_table("headline"),
    "equal-time": methods_table("equal-time"),
    "long": methods_table("long"),
    "several": methods_table("several"),
    "ablations": methods_table(*ABLATIONS),
    "gaps": gaps,
    "search": search,
    "deployability": deployability,
}


def _order(item: tuple[tuple[str, str, str, str], object]) -> tuple[object, ...]:
    task, backbone, setting, method = item[0]
    return task, backbone != "vit_s14", list(SETTINGS).index(setting), METHODS.index(method)


def _markdown(header: str, lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return "No runs yet."
    names = header.split(" | ")
    return "\n".join("| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *lines])
