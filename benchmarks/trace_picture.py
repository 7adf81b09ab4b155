"""A picture of a trace: a row for each device, a slice for each engine call, as Perfetto would show it.

stagekit run mixed.deploy photos/ -o out/ --trace trace.json
python benchmarks/trace_picture.py trace.json docs/images/trace.png --milliseconds 80
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from PIL import Image, ImageDraw, ImageFont

WIDTH, ROW, LEFT, TOP = 1600, 64, 200, 20
STAGES = "#4a6fa5"
TASKS = ("#d98032", "#4f9d69", "#a05195", "#c94f4f", "#7a7a2a")
"""One colour a task; stages, which all tasks share, have their own."""


@click.command(help=__doc__)
@click.argument("trace", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--start", default=0.0, show_default=True, help="Milliseconds from the first call.")
@click.option("--milliseconds", default=100.0, show_default=True, help="Length of what is shown.")
def main(trace: Path, picture: Path, start: float, milliseconds: float) -> None:
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    drawn(events, start * 1000, milliseconds * 1000).save(picture, optimize=True)
    click.echo(picture)


def drawn(events: list[dict[str, Any]], start: float, length: float) -> Image.Image:
    """The calls of ``length`` microseconds from ``start`` on."""
    rows = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    calls = [e for e in events if e["ph"] == "X" and e["ts"] < start + length and e["ts"] + e["dur"] > start]
    tasks = sorted({e["args"]["task"] for e in calls if "/" in e["name"]})
    colours = {task: TASKS[number % len(TASKS)] for number, task in enumerate(tasks)}
    image = Image.new("RGB", (WIDTH, TOP + ROW * len(rows) + 70), "white")
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(18), ImageFont.load_default(14)
    scale = (WIDTH - LEFT - 20) / length
    tops = {row: TOP + ROW * number for number, row in enumerate(rows)}
    for row, name in rows.items():
        draw.text((12, tops[row] + ROW / 2), name, "#333333", font, "lm")
        draw.line((LEFT, tops[row] + ROW - 6, WIDTH - 20, tops[row] + ROW - 6), "#dddddd")
    for call in calls:
        left = LEFT + max(call["ts"] - start, 0) * scale
        right = LEFT + min(call["ts"] + call["dur"] - start, length) * scale
        top = tops[call["tid"]]
        adapter = "/" in call["name"]
        fill = colours[call["name"].partition("/")[0]] if adapter else STAGES
        draw.rectangle((left, top, max(right - 1, left + 1), top + ROW - 8), fill)
        label = call["name"].partition("/")[2] or call["name"]
        if draw.textlength(label, small) < right - left - 4:
            draw.text(((left + right) / 2, top + (ROW - 8) / 2), label, "white", small, "mm")
    bottom = TOP + ROW * len(rows)
    for number in range(int(length / 1000) + 1):
        if number % max(round(length / 10000), 1) == 0:
            x = LEFT + 1000 * number * scale
            draw.line((x, bottom - 4, x, bottom + 4), "#888888")
            draw.text((x, bottom + 8), f"{number} ms", "#666666", small, "ma")
    x: float = LEFT
    for name, colour in [("stages, shared", STAGES), *((f"{task}: SPMs and head", colours[task]) for task in tasks)]:
        draw.rectangle((x, bottom + 38, x + 16, bottom + 54), colour)
        draw.text((x + 24, bottom + 46), name, "#333333", font, "lm")
        x += 60 + draw.textlength(name, font)
    return image


if __name__ == "__main__":
    main()
