"""Reports from results: every figure marked, every page whole in itself."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stagekit.bench.report import markdown, write_csv, write_page, write_report
from stagekit.bench.report.cells import DASH, number, significant
from stagekit.bench.report.figures import charts
from stagekit.bench.report.gallery import DIFFERENT, disagreement, galleries
from stagekit.bench.report.tables import tables
from stagekit.bench.results import Figure
from stagekit.errors import UsageError

from .made import made


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234.5, "1234"), (123.4, "123"), (12.345, "12.3"), (0.01234, "0.0123"), (0.00001234, "0.000012")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, shown: str) -> None:
    assert significant(value) == shown


def test_a_figure_is_shown_with_its_interval_and_kind() -> None:
    cell = number(Figure(value=0.005, unit="s", kind="published", low=0.0048, high=0.0052), 1e3)
    assert (cell.text, cell.value, cell.kind) == ("5 (4.8\u20135.2)", 0.005, "published")


def test_every_chart_and_table_has_something_to_show() -> None:
    results = [made("a"), made("b", 0.008, 0.5, target="openvino")]
    names = [c.name for c in charts(results)]
    assert names == [
        *("pareto", "latency", "stages", "scaling-time", "scaling-storage", "roofline"),
        "classes-landcover",
    ]
    titles = [t.title for t in tables(results)]
    assert titles[:2] == ["Deployments", "Changes"]
    assert {"Scenarios", "Accuracy", "Engine calls", "Scaling over tasks", "Where and with what"} <= set(titles)
    for table in tables(results):
        assert {len(row) for row in table.rows} == {len(table.headings)}


def test_kinds_of_requests_have_percentiles_of_their_own() -> None:
    plain = made("a")
    (single,) = plain.scenarios
    slow = [k % 2 for k in range(len(single.samples.latency))]
    latency = tuple(0.02 if k else 0.01 for k in slow)
    samples = single.samples.model_copy(update={"latency": latency, "request": tuple(slow)})
    mixed = {"mix": ("3 x sea", "1 x land"), "scenarios": (single.model_copy(update={"samples": samples}),)}
    found = {t.title: t for t in tables([plain.model_copy(update=mixed)])}["Requests of the mix"]
    assert [(row[2].text, row[4].value) for row in found.rows] == [("3 x sea", 0.01), ("1 x land", 0.02)]
    assert "Requests of the mix" not in {t.title for t in tables([plain])}


def test_nothing_is_drawn_of_what_was_not_measured() -> None:
    bare = made("a").model_copy(
        update={
            "scenarios": (),
            "accuracy": (),
            "baseline": (),
            "scaling": (),
            "roof": None,
            "memory": None,
            "noise": None,
        }
    )
    assert charts([bare]) == []
    assert [t.title for t in tables([bare])] == ["Deployments", "Where and with what"]


def test_modelled_points_are_told_from_measured_ones() -> None:
    chart = next(c for c in charts([made("a")]) if c.name == "scaling-time")
    assert chart.data[0]["customdata"] == ["measured", "measured", "modelled", "modelled"]
    assert chart.data[0]["marker"]["symbol"] == ["circle", "circle", "circle-open", "circle-open"]
    assert "*(modelled)*" in markdown([made("a")])


def test_a_page_is_whole_in_itself(pictured: tuple[list[Any], Path]) -> None:
    results, root = pictured
    page = write_page([(r, root) for r in results], root / "page.html", "Report <of> today").read_text()
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "Report &lt;of&gt; today" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', own)
    assert own.count("data:image/webp") == 5
    plots = re.search(r'<script type="application/json" id="plots">(.*?)</script>', page, re.DOTALL)
    assert plots is not None
    assert "pareto" in json.loads(plots[1])


def test_a_report_has_a_page_across_all_and_one_a_device(tmp_path: Path) -> None:
    results = [(made("a"), tmp_path), (made("b", cpu="Other CPU"), tmp_path)]
    names = [path.name for path in write_report(results, tmp_path / "report")]
    assert names == ["index.html", "device-some-cpu.html", "device-other-cpu.html", "report.md", "report.csv"]
    assert "a and b differ in cpu" in (tmp_path / "report" / "index.html").read_text()
    assert "differ in cpu" not in (tmp_path / "report" / "device-some-cpu.html").read_text()
    with pytest.raises(UsageError, match="no results"):
        write_page([], tmp_path / "x.html", "")


def test_csv_has_a_figure_a_row(tmp_path: Path) -> None:
    write_csv([made("a")], tmp_path / "x.csv")
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    p50 = next(r for r in rows if r["figure"] == "p50")
    assert (p50["deployment"], p50["of"], p50["unit"], p50["kind"]) == ("a", "SingleStream", "s", "measured")
    assert float(p50["value"]) == 0.005
    assert {"miou", "dice", "staged_over_uncut", "samples_per_second"} <= {r["figure"] for r in rows}


def test_pictures_show_where_deployments_differ(pictured: tuple[list[Any], Path]) -> None:
    results, root = pictured
    (gallery,), missing = galleries([(r, root) for r in results])
    assert missing == []
    titles = [p.title for p in gallery.rows[0].panels]
    assert titles == ["picture", "truth", "first", "second", f"differ: {100 * 64 / 4096:.2g} %"]
    image, labels = np.zeros((2, 2, 3), np.uint8), np.array([[0, 1], [1, 1]], np.uint8)
    pale, share = disagreement(image, [labels, np.ones_like(labels)])
    assert share == 0.25
    assert (pale[0, 0] == DIFFERENT).all()
    assert not (pale[1, 1] == DIFFERENT).all()


def test_a_picture_that_is_gone_is_said_and_not_fatal(pictured: tuple[list[Any], Path]) -> None:
    results, root = pictured
    (root / "first.image.png").unlink()
    shown, missing = galleries([(r, root) for r in results])
    assert shown == []
    assert "the picture north of landcover cannot be shown" in missing[0]


def test_an_emulated_device_is_summed_up_by_what_it_is_modelled_to_take() -> None:
    from stagekit.bench.compare import warnings
    from stagekit.bench.modelled import NAME
    from stagekit.bench.results import ScenarioResult

    real = made("dpu")
    seconds = Figure(value=0.002, unit="s", kind="modelled")
    foretold = ScenarioResult(scenario=NAME, figures={"stages": seconds, "p50": seconds})
    facts = real.deployment.model_copy(update={"emulates": "modelled for dpu-b4096"})
    emulated = real.model_copy(update={"deployment": facts, "scenarios": (foretold, *real.scenarios)})
    table = tables([emulated])[0]
    cell = table.rows[0][table.headings.index("p50 ms")]
    assert (cell.text, cell.kind) == ("2", "modelled")
    assert charts([emulated])[0].data[0]["marker"]["symbol"] == "circle-open"
    drawn = {c.name: [t["name"] for t in c.data] for c in charts([made("cpu"), emulated])}
    assert drawn["latency"] == drawn["stages"] == ["cpu"], "what emulating takes is not drawn beside devices"
    of_stages = foretold.model_copy(update={"figures": {"stages": seconds}})  # the rest runs in floats elsewhere
    partly = emulated.model_copy(update={"scenarios": (of_stages, *real.scenarios)})
    row = next(t for t in tables([partly]) if t.title == "Emulated devices").rows[0]
    assert [c.text for c in row] == ["dpu", "dpu-b4096", "2", DASH, f"5 (4.9{DASH}5.1)"], "emulating takes 5 ms here"
    assert charts([partly])[0].data[0]["x"] == [2.0]
    assert warnings([emulated]) == ["dpu emulates a device: measured times are the emulator's"]
