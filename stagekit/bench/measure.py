"""The straight-line driver of ``stagekit bench``: a deployment and pictures to results.

Every step adds to the results; where one fails, what was measured before stays and the results say partial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from stagekit.bench import loadgen, memory, noise
from stagekit.bench.accuracy import Labels, keep_pictures, score_task
from stagekit.bench.device import command_line, commit, device_facts, versions
from stagekit.bench.labels import keep_labels
from stagekit.bench.loadgen import Settings
from stagekit.bench.mix import everything, read_arrivals, read_mix, recorded, samples
from stagekit.bench.modelled import modelled, modelled_for
from stagekit.bench.names import Scenario
from stagekit.bench.openings import Openings, Renewing, settle
from stagekit.bench.options import Options
from stagekit.bench.pictures import find_pictures
from stagekit.bench.recording import Recording
from stagekit.bench.results import DeployFacts, Figure, Memory, Result, ScenarioResult
from stagekit.bench.roof import measure_roof
from stagekit.bench.run import Run, closed_loop, replay
from stagekit.bench.scaling import scale, storage
from stagekit.bench.scenarios import Watch, serve
from stagekit.bench.statistics import levels, spread
from stagekit.bench.steps import Measuring
from stagekit.bench.system import SessionSystem, System
from stagekit.bench.uncut import Bundles, compare
from stagekit.bundle import DeployManifest, read_manifest
from stagekit.session import Session
from stagekit.store import Store
from stagekit.store.record import Record, read_record

WARM = 1.0
"""Seconds at most for which a process answers unseen before anything is measured."""

SAMPLES = 256
"""Queries of a mix to choose from."""


def measure(
    deployment: Path,
    data: Sequence[str],
    options: Options,
    save: Callable[[Result], None],
    folder: Path,
    progress: Callable[[str], None] = lambda text: None,
    reference: tuple[str, Labels] | None = None,
    store: Store | None = None,
) -> tuple[Result, Labels]:
    """Measures a deployment.

    Args:
        data: see :func:`stagekit.bench.pictures.find_pictures`.
        save: called after every step, with results that are partial until the end.
        folder: for LoadGen's logs and for pictures; reports expect it beside the results.
        reference: another deployment's name and label maps, for agreement.
        store: where the uncut baseline is compiled to.

    Returns:
        The results, and the label maps of all labelled pictures by task.

    Raises:
        UsageError, DatasetError, ImageError, BundleError, TargetUnavailable: nothing could be measured at all.
    """
    manifest = read_manifest(deployment, DeployManifest)
    bundles = Bundles(options.bundles) if options.bundles else None
    before = memory.resident()
    recording = Recording()
    probe = noise.probe()
    with Openings(lambda: Session(deployment, options.tasks or None, trace=recording)) as openings:
        session = openings.session
        result = _result(deployment, manifest, session)
        options = options.of_emulator() if result.deployment.emulates else options
        names = list(session.tasks)
        if bundles is not None:
            bundles.check(manifest, names if options.uncut else ())
        pictures = find_pictures(data, list(session.tasks.values()), options.split)
        mix = read_mix(options.mix, names) if options.mix else everything(names)
        known = len(mix.request)
        arrivals = read_arrivals(options.arrivals, names, pictures.stems, known) if options.arrivals else ()
        measuring = Measuring(options, save, folder, progress, result)
        measuring.add(mix=tuple(map(str, (*mix.request, *recorded(arrivals)))))
        turn = cycle(pictures.images)

        def warm(session: Session) -> None:
            session.run(next(turn))

        with measuring.step("warming up"):
            settle(session, warm, min(WARM, options.seconds), least=1 if result.deployment.emulates else 3)
        opened = memory.resident()
        memory.forget_peak()
        chosen = samples(mix, len(pictures.images), SAMPLES)
        watch = Watch(
            recording,
            openings.shared,
            {e.digest: e.bytes for e in manifest.engines},
            bundles.macs() if bundles else {},
            options.slo,
        )
        kinds = {index: sample.request for index, sample in enumerate(chosen)}
        system = SessionSystem(session, pictures.images, chosen, options.reuse)
        during = partial(watch.during, reuse=options.reuse, official=options.official)
        for name in options.scenarios:
            if name != "Server" or options.slo is not None:
                renewing = None
                if name == "SingleStream" and not options.official:
                    renewing = Renewing(openings, system, warm, options.seconds)
                _scenario(measuring, name, partial(during, name, kinds=kinds), system, renewing)
        session = openings.session
        if options.callers:
            loop = partial(closed_loop, system, options.callers, options.seconds, least=options.queries)
            with measuring.step(f"closed loop of {options.callers}"):
                _keep(measuring, during("ClosedLoop", kinds=kinds, run=loop))
        if arrivals:
            timed = SessionSystem(session, pictures.images, [a.sample for a in arrivals], options.reuse)
            with measuring.step("recorded arrivals"):
                those = {index: a.sample.request for index, a in enumerate(arrivals)}
                _keep(measuring, during("Arrivals", kinds=those, run=partial(replay, timed, arrivals)))
        most = memory.peak()
        engines = storage(manifest, list(session.tasks.values()))
        measuring.add(memory=Memory(before=before, opened=opened, peak=most, engines=engines))
        if options.accuracy:
            _accuracy(measuring, session, pictures.labelled, reference)
            keep_labels(measuring.labels, folder)
        if options.rounds and len(names) > 1:
            with measuring.step("scaling over tasks"):
                measuring.add(scaling=scale(session, pictures.images, options.rounds))
        if bundles is not None and options.uncut and options.rounds:
            for task in names:
                with measuring.step(f"{task} uncut"):
                    row = compare(openings, bundles, task, pictures.images, options.rounds, store or Store.default())
                    measuring.add(baseline=(*measuring.result.baseline, row))
        if not result.deployment.emulates:
            with measuring.step("the device's limits"):
                measuring.add(roof=measure_roof())
    steadiest = measuring.result.scenario("SingleStream", options.reuse) or measuring.result.scenario("ClosedLoop")
    run = (steadiest.samples.latency, steadiest.openings) if steadiest else None
    apart = (spread(*run), levels(*run)) if run else (None, None)
    final = "partial" if measuring.result.problems else "complete"
    measuring.add(noise=noise.judged(probe, noise.probe(), *apart), status=final)
    return measuring.result, measuring.labels


def _scenario(
    measuring: Measuring,
    name: Scenario,
    during: Callable[..., ScenarioResult],
    system: System,
    renewing: Renewing | None,
) -> None:
    options, logs = measuring.options, measuring.folder / "loadgen" / name
    single = measuring.result.scenario("SingleStream", options.reuse)
    offline = measuring.result.scenario("Offline", options.reuse)
    known = [s.figures["samples_per_second"].value for s in (offline, single) if s and s.figures]
    rate = known[0] if known else 20.0
    with measuring.step(name):
        if name == "Server":
            settings = options.settings(name, max(1.0, 0.7 * rate))
            made = during(run=partial(serve, system, settings, logs, measuring.progress))
            held = made.settings.get("holds")
            asked = made.settings.get("rate")
            if held and isinstance(asked, float):
                figures = {**made.figures, "rate": Figure(value=asked, unit="1/s")}
                made = made.model_copy(update={"figures": figures})
        else:
            settings = options.settings(name, 1.1 * rate)
            if renewing is None:
                made = during(run=partial(loadgen.run, system, settings, logs))
            else:  # LoadGen's clock goes on meanwhile
                settings = replace(settings, seconds=settings.seconds + renewing.pauses)
                made = during(run=partial(loadgen.run, system, settings, logs, between=renewing))
        _keep(measuring, made)


def _keep(measuring: Measuring, made: ScenarioResult) -> None:
    measuring.add(scenarios=(*measuring.result.scenarios, made))
    if made.problem:
        measuring.note(f"{made.scenario}: {made.problem}")


def _accuracy(measuring: Measuring, session: Session, labelled: Any, reference: tuple[str, Labels] | None) -> None:
    def drive(system: System, observe: Any) -> Run:
        if measuring.options.scenarios:
            settings = Settings("Offline", accuracy=True)
            return loadgen.run(system, settings, measuring.folder / "loadgen" / "accuracy", observe)
        return closed_loop(system, 1, 0.0, least=len(system), observe=observe)

    for task, data in labelled.items():
        with measuring.step(f"accuracy of {task}"):
            scored, labels = score_task(session, task, data, drive, reference)
            measuring.labels[task] = labels
            kept = keep_pictures(task, data, labels, measuring.folder)
            measuring.add(accuracy=(*measuring.result.accuracy, scored), pictures=(*measuring.result.pictures, *kept))


def _result(deployment: Path, manifest: DeployManifest, session: Session) -> Result:
    found = {e.digest: read_record(deployment / "engines" / e.digest) for e in manifest.engines}
    built = {digest: record for digest, record in found.items() if isinstance(record, Record)}
    compiled = Figure(value=sum(r.build_seconds for r in built.values()), unit="s") if built == found else None
    reports = {digest: record.report for digest, record in built.items()}
    foretold = modelled(manifest, list(session.tasks.values()), reports)
    return Result(
        status="partial",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        commit=commit(),
        versions=versions(),
        device=device_facts(),
        deployment=DeployFacts(
            name=manifest.name,
            target=manifest.target,
            profile=str(manifest.profile.get("name", "")),
            precision=str(manifest.profile.get("precision", "")),
            device=str(manifest.profile.get("device", "")),
            toolchain=manifest.toolchain,
            backbone=manifest.backbone,
            frame=(manifest.frame.height, manifest.frame.width),
            tasks={t.name: tuple((c.name, c.color) for c in t.classes) for t in session.tasks.values()},
            compile_seconds=compiled,
            emulates=modelled_for(reports),
        ),
        scenarios=() if foretold is None else (foretold,),
    )
