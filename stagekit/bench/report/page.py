"""One HTML file that needs nothing else: charts (plotly inside), tables that sort, pictures; dark, light, print."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagekit.bench.compare import warnings
from stagekit.bench.report.exports import markdown, write_csv
from stagekit.bench.report.figures import charts
from stagekit.bench.report.gallery import galleries
from stagekit.bench.report.tables import tables
from stagekit.bench.results import Result
from stagekit.errors import TargetUnavailable, UsageError
from stagekit.whole import write_whole

HERE = Path(__file__).parent


def write_report(results: Sequence[tuple[Result, Path]], folder: Path) -> list[Path]:
    """A page across all, a page for each device, and the figures as Markdown and CSV.

    Args:
        results: each with the folder that its pictures' paths start from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [write_page(results, folder / "index.html", "Benchmark report")]
    devices: dict[str, list[tuple[Result, Path]]] = {}
    for result, root in results:
        devices.setdefault(result.device_name, []).append((result, root))
    for device, those in devices.items():
        written.append(write_page(those, folder / f"{_slug(device)}.html", device))
    given = [result for result, _ in results]
    write_whole(folder / "report.md", markdown(given).encode())
    write_csv(given, folder / "report.csv")
    return [*written, folder / "report.md", folder / "report.csv"]


def write_page(results: Sequence[tuple[Result, Path]], path: Path, title: str) -> Path:
    """Writes one page.

    Raises:
        UsageError: there are no results.
        TargetUnavailable: jinja2 or plotly is not installed.
    """
    if not results:
        raise UsageError("there are no results to report", remedy="run `stagekit bench` first")
    given = [result for result, _ in results]
    shown, missing = galleries(results)
    drawn = charts(given)
    plots = {c.name: {"data": c.data, "layout": c.layout} for c in drawn}
    template, plotly = _tools()
    page = template.render(
        title=title,
        results=given,
        warnings=[*warnings(given), *missing],
        charts=drawn,
        tables=tables(given),
        galleries=shown,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        plots=json.dumps(plots).replace("</", "<\\/"),
        plotly=plotly.replace("</script", "<\\/script"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())
    return path


def _tools() -> tuple[Any, str]:
    try:
        from jinja2 import Environment, FileSystemLoader
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise TargetUnavailable(
            f"reports need jinja2 and plotly: {error}", where="stagekit report", remedy="pip install 'stagekit[bench]'"
        ) from error
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html.j2"), get_plotlyjs()


def _slug(name: str) -> str:
    return "device-" + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "unknown")
