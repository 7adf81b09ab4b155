"""Writes the tables of docs/runtime.md from the JSON files under benchmarks/results.

python benchmarks/runtime_page.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "runtime.md"
Row = dict[str, Any]


def main() -> None:
    def block(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end -->"

    text = re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", block, PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)


def rows(name: str) -> list[Row]:
    """Of a result; none where it was not measured."""
    path = RESULTS / name
    found: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return found


def table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    made = [f"| {' | '.join(map(str, line))} |" for line in lines]
    if not made:
        return "Not measured yet."
    return "\n".join([f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns), *made])


def tax(result: str = "staging_tax.json") -> str:
    columns = ("network", "profile", "chain ms", "uncut ms", "uncut runs", "ratio", "without the runtime", "boundaries")
    return table(
        columns,
        (
            (
                f"{r['model'].partition('-')[0]} {r['size']}{', prompted' if r['prompted'] else ''}",
                r["profile"],
                f"{r['us_per_call'] / 1000:.1f}",
                f"{r['uncut_us'] / 1000:.1f}",
                r["uncut"],
                f"**{r['ratio']:.3f}**",
                f"{r['bare_ratio']:.3f}",
                ", ".join(dict.fromkeys(r["boundaries"][:-1])),
            )
            for r in rows(result)
        ),
    )


def multi_task() -> str:
    columns = (
        "network", "profile", "prompted from", "frames/s", "of the limit", "over 8 uncut models", "MB", "8 models MB",
        "MACs a task adds", "9th task s",
    )  # fmt: skip
    return table(
        columns,
        (
            (
                f"{r['model'].partition('-')[0]} {r['size']}",
                r["profile"],
                f"boundary {r['prompted_from']}" if isinstance(r["prompted_from"], int) else r["prompted_from"],
                f"{r['frames_per_second']:.1f}",
                f"{r['fraction_of_limit']:.3f}",
                f"{r['speedup']:.2f}x",
                round(r["rss_mb"]),
                round(r["rss_uncut_mb"]) if r["rss_uncut_mb"] > 0 else "not told",  # they took what others had freed
                f"{100 * r['adapter_share']:.1f} %",
                r["add_seconds"],
            )
            for r in rows("multi_task.json")
        ),
    )


def overhead() -> str:
    return table(
        ("tasks registered", "caller", "us a call", "us a request of 10 calls"),
        (
            (
                r["tasks"],
                {"wait": "waits", "submit": "submits"}[r["mode"]],
                r["us_per_call"],
                r["us_per_request"],
            )
            for r in rows("scheduler_overhead.json")
        ),
    )


def pipeline() -> str:
    return table(
        ("devices", "batches in flight", "requests", "seconds", "limit", "share"),
        (
            (
                f"{r['devices']}: {r['model']}" if "model" in r else r["devices"],
                r["depth"] or "as the targets say",
                r["requests"],
                r["seconds"],
                r["limit_seconds"],
                f"{r['fraction_of_limit']:.3f}",
            )
            for r in rows("pipeline.json")
        ),
    )


def overload() -> str:
    columns = ("clock", "seconds", "capacity/s", "offered/s", "goodput/s", "ratio", "p99 s", "SLO s", "refused", "lost")
    keys = ("clock", "seconds", "capacity", "offered", "goodput", "ratio", "p99", "slo", "refused", "lost")
    return table(columns, ([r[key] for key in keys] for r in rows("overload.json")))


def soak() -> str:
    columns = ("requests", "tasks", "done", "failed", "cancelled", "task closed", "wrong values", "lost", "memory grew")
    keys = ("requests", "tasks", "done", "failed", "cancelled", "not_open", "mismatched_values", "lost")
    return table(columns, ([*(r[k] for k in keys), f"{100 * (r['rss_growth'] - 1):.2f} %"] for r in rows("soak.json")))


def memory() -> str:
    columns = ("network", "target", "stages MB", "uncut MB", "difference MB")
    return table(columns, (list(r.values()) for r in rows("run_memory.json")))


TABLES: dict[str, Callable[[], str]] = {
    "tax": tax,
    "tax-amx": partial(tax, "staging_tax_amx.json"),
    "tax-avx2": partial(tax, "staging_tax_avx2.json"),
    "multi-task": multi_task,
    "overhead": overhead,
    "pipeline": pipeline,
    "overload": overload,
    "soak": soak,
    "memory": memory,
}

if __name__ == "__main__":
    main()
