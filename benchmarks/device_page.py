"""Writes docs/benchmarks.md and its picture from benchmarks/results/device.json.

python benchmarks/device_page.py [--check]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import click
from place import place_of

from stagekit.bench.report.cells import DASH, significant

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "device.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "benchmarks.svg"

Row = Mapping[str, Any]

OURS = 0.8
"""Least share of the cores' time with which a time is shown at all."""


@click.command()
@click.option("--check", is_flag=True, help="Only say whether the page is what the file gives.")
def main(check: bool) -> None:
    data = json.loads(RESULTS.read_text())
    wanted = {PAGE: page(data), PICTURE: picture(data["rows"])}
    if check:
        stale = [path.name for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
        if stale:
            raise click.ClickException(f"{', '.join(stale)}: not what {RESULTS.name} gives; run this without --check")
        return
    for path, text in wanted.items():
        path.write_text(text)


def page(data: Mapping[str, Any]) -> str:
    rows: list[Row] = data["rows"]
    parts = [heading(data), left_out(data["left_out"]), noise(rows), drawn(rows, "images/benchmarks.svg")]
    for model in models(rows):
        of_model = [r for r in rows if r["model"] == model]
        parts += [f"## {model}", about(of_model, place_of(data)), table(here(of_model)), table(emulated(of_model))]
    over_tasks = table(scaling(rows))
    parts += ["## Time over tasks", SCALING, over_tasks] if over_tasks else []
    return "\n\n".join(part for part in parts if part) + "\n"


SCALING = (
    "One image: tasks that share one backbone, against as many whole models one after the other, both through the"
    " same\nsession. Storage grows by the SPMs and the head of each task."
)


def heading(data: Mapping[str, Any]) -> str:
    machine, versions = data["machine"], data["versions"]
    flags = ", ".join(f for f in machine["flags"] if f.startswith(("avx512_vnni", "amx", "avx2"))) or "none"
    tools = ", ".join(f"{k} {v}" for k, v in versions.items() if k in ("onnxruntime", "openvino", "mlcommons-loadgen"))
    return (
        "# Benchmarks on one machine\n\n"
        f"{machine['cpu']}, {machine['cores']} cores ({flags}), {machine['memory'] / 2**30:.0f} GiB; {tools};"
        f" {data['date']}.\nMade by\n"
        "```\npython benchmarks/device.py\npython benchmarks/device_page.py\n```\n"
        "p50: the median of one image with all its tasks, from pixels in memory to label maps in its own size, in\n"
        "MLPerf's SingleStream with 95 % bootstrap intervals; images a second: Offline. Runs last seconds, not the\n"
        "ten minutes of MLPerf's rules. Agreement: pixels with the label of `ort-f32`. Stages / uncut: the time of a\n"
        "task through its stages over that of the same task as one graph on the same target, in alternation.\n"
        "[bench.md](bench.md) says how all of it is measured. Everything is measured unless marked *modelled*."
    )


def left_out(profiles: Mapping[str, str]) -> str:
    """What cannot run on this machine, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in profiles.items():
        by_reason.setdefault(why, []).append(f"`{name}`")
    return "\n".join(f"Not here: {', '.join(names)} ({why})." for why, names in by_reason.items())


def noise(rows: Sequence[Row]) -> str:
    noisy = [f"> - {r['model']}, {r['deployment']}: {'; '.join(r['noisy'])}" for r in rows if r["noisy"]]
    if not noisy:
        return ""
    return "\n".join(["> † The machine was not quiet, so that times of these are rough:", *noisy])


def models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(r["model"] for r in rows))


def about(rows: Sequence[Row], usual: str) -> str:
    """What a backbone's rows are of, and where they were measured if not where the others were."""
    first = rows[0]
    counts = [f"{task} ({count} test images)" for task, count in first["images"].items()]
    if not first["trained"]:
        told = "Random weights and one untrained task: for timing alone."
    elif len(first["tasks"]) > 1:
        told = f"{len(first['tasks'])} tasks on one backbone: {', '.join(counts)}."
    else:
        told = f"Task: {counts[0]}."
    elsewhere = sorted({r["where"] for r in rows if r.get("where", usual) != usual})
    return f"{told} Measured elsewhere: {'; '.join(elsewhere)}." if elsewhere else told


Column = tuple[str, Callable[[Row], str]]


def here(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """What ran on this machine."""
    tasks = list(rows[0]["miou"])
    columns: list[Column] = [
        ("profile", lambda r: r["deployment"]),
        ("p50 ms", lambda r: timed(r, r["p50_ms"])),
        ("images/s", lambda r: timed(r, r["images_per_second"])),
        *((f"mIoU {t} %", lambda r, t=t: percent(r["miou"].get(t))) for t in tasks),
        *([("agreement %", lambda r: agreement(r))] if tasks else []),
        ("stages / uncut", lambda r: ", ".join(dict.fromkeys(timed(r, f) for f in r["over_uncut"].values())) or DASH),
        ("engines MB", lambda r: plain(r["engines_mb"])),
        ("memory MB", lambda r: plain(r["memory_mb"])),
    ]
    return _cells(columns, [r for r in rows if not r["device"]])


def emulated(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """What is emulated: a device's modelled time, and the emulator's own."""
    tasks = list(rows[0]["miou"])
    columns: list[Column] = [
        ("emulated device", lambda r: r["device"]),
        ("stages ms", lambda r: figure(r["stages_ms"])),
        ("emulation here ms", lambda r: timed(r, r["emulation_ms"])),
        *((f"mIoU {t} %", lambda r, t=t: percent(r["miou"].get(t))) for t in tasks),
        *([("agreement %", lambda r: agreement(r))] if tasks else []),
        ("engines MB", lambda r: plain(r["engines_mb"])),
    ]
    return _cells(columns, [r for r in rows if r["device"]])


def scaling(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    cells = [
        [r["model"], r["deployment"], str(s["tasks"]), timed(r, s["together_ms"]), timed(r, s["apart_ms"])]
        for r in rows
        for s in r["scaling"]
        if len(r["tasks"]) > 1 and not r["noisy"]
    ]
    return ["backbone", "profile", "tasks", "shared ms", "apart ms"], cells


def _cells(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    return [name for name, _ in columns], [[show(r) for _, show in columns] for r in rows]


def table(given: tuple[list[str], list[list[str]]]) -> str:
    """Markdown; empty without rows."""
    headings, rows = given
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(r)} |" for r in [headings, ["---"] * len(headings), *rows])


def figure(given: Mapping[str, Any] | None, digits: int = 3) -> str:
    if given is None:
        return DASH
    text = plain(given["value"], digits)
    if "low" in given:
        text += f" ({plain(given['low'], digits)}{DASH}{plain(given['high'], digits)})"
    return text if given["kind"] == "measured" else f"{text} *({given['kind']})*"


def timed(row: Row, given: Mapping[str, Any] | None) -> str:
    """A measured time; about that where other work ran on the machine, and none where much did."""
    if given is None or not row["noisy"]:
        return figure(given)
    return f"≈ {plain(given['value'])} †" if (row.get("share") or 0) >= OURS else f"{DASH} †"


def plain(value: float | None, digits: int = 3) -> str:
    if value is None:
        return DASH
    return significant(value, digits)


def percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.2f}"


def agreement(row: Row) -> str:
    return ", ".join(f"{100 * v:.2f}" for v in row["agreement"].values()) or "reference"


def with_bars(rows: Sequence[Row]) -> list[Row]:
    """What the picture shows: real tasks, with times that were measured on a quiet machine."""
    return [r for r in rows if r["trained"] and r["p50_ms"] and not r["noisy"]]


def drawn(rows: Sequence[Row], path: str) -> str:
    """The picture in Markdown; nothing where it has no bar."""
    text = "Median time of one image with all its tasks, by backbone and profile"
    return f"![{text}]({path})" if with_bars(rows) else ""


WIDTH, LEFT, RIGHT, BAR, GAP = 760, 190, 210, 20, 8


def picture(rows: Sequence[Row]) -> str:
    """Median times of what has real tasks, as bars, with accuracy beside them; follows the reader's dark or light."""
    shown = with_bars(rows)
    parts: list[str] = []
    y = 8
    for model in models(shown):
        of_model = [r for r in shown if r["model"] == model]
        longest = max(r["p50_ms"]["value"] for r in of_model)
        parts.append(
            f'<text x="0" y="{y + 14}" class="model">{escape(model)}: {escape(" + ".join(of_model[0]["tasks"]))}</text>'
        )
        y += 26
        for r in of_model:
            width = (WIDTH - LEFT - RIGHT) * r["p50_ms"]["value"] / longest
            scores = ", ".join(f"{100 * v:.1f}" for v in r["miou"].values())
            parts += [
                f'<text x="{LEFT - 10}" y="{y + 15}" class="name">{escape(r["deployment"])}</text>',
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3"/>',
                f'<text x="{LEFT + width + 8:.1f}" y="{y + 15}">{plain(r["p50_ms"]["value"])} ms'
                f'<tspan class="soft">  mIoU {scores} %</tspan></text>',
            ]
            y += BAR + GAP
        y += 12
    style = (
        "text{font:14px system-ui,sans-serif;fill:#1f1f1d}.name{text-anchor:end}.model{font-weight:600}"
        ".soft{fill:#62625d}rect{fill:#2a78d6}@media(prefers-color-scheme:dark){text{fill:#ecece8}.soft{fill:#a3a39c}rect{fill:#3987e5}}"
    )
    title = "Median milliseconds of one image with all its tasks, by backbone and profile"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
        f"<title>{title}</title><style>{style}</style>" + "".join(f"\n{part}" for part in parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()
