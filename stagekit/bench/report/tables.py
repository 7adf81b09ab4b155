"""Results as tables: for HTML, Markdown and CSV alike."""

from __future__ import annotations

from collections.abc import Sequence

from stagekit.bench.compare import changes, pairs
from stagekit.bench.modelled import NAME, STAGES
from stagekit.bench.report.cells import DASH, Cell, Table, number, text
from stagekit.bench.report.headline import figure, headline, latency, latency_scenario, mean_miou
from stagekit.bench.results import Figure, Result
from stagekit.bench.statistics import percentile


def tables(results: Sequence[Result]) -> list[Table]:
    """All tables that have a row."""
    made = [
        summary(results),
        compared(results),
        scenarios(results),
        requests(results),
        accuracy(results),
        emulated(results),
        baseline(results),
        calls(results),
        scaling(results),
        devices(results),
    ]
    return [table for table in made if table.rows]


def summary(results: Sequence[Result]) -> Table:
    """One row a deployment; the device where there are several, and what a server holds where one was asked."""
    several = len({r.device_name for r in results}) > 1
    served = any(r.scenario("Server") for r in results)
    rows = []
    for r in results:
        single = headline(r)
        offline = single if r.deployment.emulates else r.scenario("Offline") or single
        server = None if r.deployment.emulates else r.scenario("Server")
        memory = r.memory
        grown = Figure(value=max(0, memory.opened - memory.before), unit="B") if memory else None
        rows.append(
            (
                text(r.deployment.name),
                text(r.deployment.target),
                text(r.deployment.precision),
                *([text(r.device_name)] if several else []),
                number(latency(r), 1e3),
                number(figure(single, "p90"), 1e3),
                number(figure(offline, "samples_per_second")),
                *([number(figure(server, "rate"))] if served else []),
                number(mean_miou(r), 100),
                number(Figure(value=memory.engines, unit="B") if memory else None, 1e-6),
                number(grown, 1e-6),
                text(_state(r)),
            )
        )
    timed = ("p50 ms", "p90 ms", "images/s", *(("server/s",) if served else ()))
    what = ("deployment", "target", "precision", *(("device",) if several else ()))
    headings = (*what, *timed, "mIoU %", "engines MB", "memory MB", "state")
    note = (
        "p50 and p90: one image with all its tasks, from pixels to label maps, with 95 % bootstrap intervals."
        f"{' server/s: the highest Poisson rate that kept 99 % of queries within the SLO.' if served else ''}"
        " memory: what opening and the first images added to the process. Of emulated devices p50 is modelled."
    )
    return Table("Deployments", headings, tuple(rows), note)


def _state(result: Result) -> str:
    noisy = bool(result.noise and result.noise.noisy)
    if result.status == "partial":
        return "partial, noisy" if noisy else "partial"
    return "noisy" if noisy else result.status


SHOWN = {"s": (1e3, "ms"), "1/s": (1.0, "/s"), "": (100.0, "%"), "B": (1e-6, "MB")}
"""Scale and unit in which people read a figure, by its own unit."""


def compared(results: Sequence[Result]) -> Table:
    """What changed between runs."""
    found = pairs(results)
    rows = [
        (
            text(change.deployment),
            text(change.what.replace("samples_per_second", "images a second")),
            *(number(f, *SHOWN[f.unit], digits=4) for f in (change.before, change.after)),
            Cell(change.better, change.worse, worse=change.worse if change.sure else 0.0),
            text(change.verdict),
        )
        for before, after in found
        for change in changes(before, after)
    ]
    names = [tuple(r.deployment.name for r in pair) for pair in found]
    both = names[0] if len(names) == 1 and len(set(names[0])) == 2 else ("before", "after")
    return Table("Changes", ("deployment", "figure", *both, "better by", "sure"), tuple(rows))


def scenarios(results: Sequence[Result]) -> Table:
    judged = any("within_slo" in s.figures for r in results for s in r.scenarios)
    rows = [
        (
            text(r.deployment.name),
            text(s.scenario if s.reuse else f"{s.scenario}, no reuse"),
            Cell(str(len(s.samples.latency)), len(s.samples.latency)),
            *(number(s.figures.get(name), 1e3) for name in ("p50", "p90", "p99", "queued_p50")),
            *([number(s.figures.get("within_slo"), 100)] if judged else []),
            number(s.figures.get("samples_per_second")),
            text({None: DASH, True: "valid", False: "not valid"}[s.valid]),
        )
        for r in results
        for s in r.scenarios
    ]
    times = ("p50 ms", "p90 ms", "p99 ms", "queued ms", *(("within SLO %",) if judged else ()))
    headings = ("deployment", "scenario", "queries", *times, "images/s", "LoadGen")
    note = (
        "LoadGen's verdict counts its least duration and early stopping; a quick run is seldom valid by its rules."
        " MultiStream queries hold eight images. One image here comes with all its tasks, so figures with prefix"
        " reuse are no MLPerf submissions."
    )
    return Table("Scenarios", headings, tuple(rows), note)


def requests(results: Sequence[Result]) -> Table:
    """Each kind of request of a mix."""
    rows = []
    for r in results:
        for s in r.scenarios if len(r.mix) > 1 else ():
            for kind, name in enumerate(r.mix):
                own = [t for t, k in zip(s.samples.latency, s.samples.request, strict=True) if k == kind]
                if not own or s.scenario == "Offline":
                    continue
                times = [Figure(value=percentile(own, share), unit="s") for share in (0.5, 0.9, 0.99)]
                rows.append(
                    (
                        text(r.deployment.name),
                        text(s.scenario),
                        text(name),
                        Cell(str(len(own)), len(own)),
                        *(number(figure, 1e3) for figure in times),
                    )
                )
    headings = ("deployment", "scenario", "request", "queries", "p50 ms", "p90 ms", "p99 ms")
    return Table("Requests of the mix", headings, tuple(rows))


def accuracy(results: Sequence[Result]) -> Table:
    rows = [
        (
            text(r.deployment.name),
            text(a.task),
            text(f"{a.data} {a.split or ''}".strip()),
            Cell(str(a.images), a.images),
            *(number(f, 100) for f in (a.miou, a.dice, a.accuracy)),
            number(a.agreement, 100, digits=5),
        )
        for r in results
        for a in r.accuracy
    ]
    headings = ("deployment", "task", "data", "images", "mIoU %", "Dice %", "pixels right %", "agreement %")
    return Table("Accuracy", headings, tuple(rows), "Agreement: pixels with the first deployment's label.")


def baseline(results: Sequence[Result]) -> Table:
    rows = [
        (text(r.deployment.name), text(b.task), number(b.ratio), number(b.agreement, 100, digits=5))
        for r in results
        for b in r.baseline
    ]
    headings = ("deployment", "task", "time of stages / time of one graph", "agreement %")
    return Table("Stages against the uncut model", headings, tuple(rows), "One task, alternating, same target.")


def emulated(results: Sequence[Result]) -> Table:
    """What devices that are not here are modelled to take, and what emulating them took."""
    rows = []
    for r in results:
        foretold, ran = r.scenario(NAME), latency_scenario(r)
        if r.deployment.emulates is None:
            continue
        rows.append(
            (
                text(r.deployment.name),
                text(r.device_name),
                number(figure(foretold, STAGES), 1e3),
                number(figure(foretold, "p50"), 1e3),
                number(figure(ran, "p50"), 1e3),
            )
        )
    headings = ("deployment", "device", "stages ms", "whole task ms", "emulation here ms")
    note = (
        "One image with all its tasks. Where SPMs and heads run in floats beside the device, only stages are modelled."
    )
    return Table("Emulated devices", headings, tuple(rows), note)


def calls(results: Sequence[Result]) -> Table:
    rows = []
    for r in results:
        s = latency_scenario(r)
        for c in s.calls if s else ():
            sizes = " ".join(f"{n}:{k}" for n, k in c.sizes.items())
            rows.append(
                (
                    text(r.deployment.name),
                    text(c.label),
                    Cell(str(c.batches), c.batches),
                    Cell(str(c.shared), c.shared),
                    text(sizes),
                    number(Figure(value=c.median, unit="s"), 1e3),
                    number(Figure(value=c.p90, unit="s"), 1e3),
                    number(None if c.bytes is None else Figure(value=c.bytes, unit="B"), 1e-3),
                )
            )
    headings = ("deployment", "call", "made", "shared", "batch sizes", "p50 ms", "p90 ms", "engine kB")
    return Table("Engine calls", headings, tuple(rows), "Shared: another task had computed it for the same image.")


def scaling(results: Sequence[Result]) -> Table:
    rows = [
        (
            text(r.deployment.name),
            Cell(str(s.tasks), s.tasks),
            number(s.shared_seconds, 1e3),
            number(s.separate_seconds, 1e3),
            number(s.shared_bytes, 1e-6),
            number(s.separate_bytes, 1e-6),
        )
        for r in results
        for s in r.scaling
    ]
    headings = ("deployment", "tasks", "together ms", "apart ms", "one backbone MB", "whole models MB")
    return Table("Scaling over tasks", headings, tuple(rows))


def devices(results: Sequence[Result]) -> Table:
    rows = []
    for r in results:
        d = r.device
        probe = f"{100 * min(r.noise.before.share, r.noise.after.share):.0f} %" if r.noise else DASH
        versions = ", ".join(f"{k} {v}" for k, v in r.versions.items())
        memory = DASH if d.memory is None else f"{d.memory / 2**30:.1f} GiB"
        commit, when = (r.commit or DASH)[:12], r.started[:16].replace("T", " ")
        cells = (r.deployment.name, d.cpu, str(d.cores), memory, d.governor or DASH, probe, versions, commit, when)
        rows.append(tuple(map(text, cells)))
    headings = ("deployment", "CPU", "cores", "memory", "governor", "own share of CPU", "versions", "commit", "when")
    return Table("Where and with what", headings, tuple(rows))
