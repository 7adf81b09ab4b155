"""The straight-line driver of ``stagekit bench``: a deployment and pictures to results.

Every step adds to the results; where one fails, what was measured before stays and the results say partial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from stagekit.bench import loadgen, memory, noise
from stagekit.bench.accuracy import Labels, keep_pictures, score_task
from stagekit.bench.device import command_line, commit, device_facts, versions
from stagekit.bench.labels import keep_labels
from stagekit.bench.loadgen import Settings
from stagekit.bench.mix import everything, read_arrivals, read_mix, samples
from stagekit.bench.modelled import modelled, modelled_for
from stagekit.bench.names import SCENARIOS, Scenario
from stagekit.bench.pictures import find_pictures
from stagekit.bench.recording import Recording
from stagekit.bench.results import DeployFacts, Figure, Memory, Result, ScenarioResult
from stagekit.bench.roof import measure_roof
from stagekit.bench.run import Run, closed_loop, replay
from stagekit.bench.scaling import scale, storage
from stagekit.bench.scenarios import Watch, serve
from stagekit.bench.statistics import spread
from stagekit.bench.system import SessionSystem, System
from stagekit.bench.uncut import Bundles, compare
from stagekit.bundle import DeployManifest, read_manifest
from stagekit.errors import StagekitError
from stagekit.session import Session
from stagekit.store import Store
from stagekit.store.record import Record, read_record

WARM = 3
SAMPLES = 256
"""Queries of a mix to choose from."""

EMULATED = 5
"""Queries that an emulator is asked: its own time is no device's latency."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Args:
        scenarios: LoadGen's, by name; Server only with an ``slo``.
        seconds, queries: the least of each scenario.
        slo: seconds within which Server must answer 99 %.
        reuse: tasks of one image share what they can.
        callers: of a closed loop; none without.
        mix, arrivals: files; see :mod:`stagekit.bench.mix`.
        bundles: the ``.stages`` and ``.task`` folders that were compiled, for the baseline and the roofline.
        uncut: also measure each task as one graph.
        accuracy: also score the tasks that have labelled pictures.
        rounds: of the baseline and of scaling; neither is measured without.
    """

    scenarios: tuple[Scenario, ...] = SCENARIOS
    seconds: float = 5.0
    queries: int = 100
    official: bool = False
    slo: float | None = None
    reuse: bool = True
    callers: int = 0
    mix: Path | None = None
    arrivals: Path | None = None
    bundles: tuple[Path, ...] = ()
    uncut: bool = False
    accuracy: bool = True
    split: str | None = None
    rounds: int = 30
    tasks: tuple[str, ...] = ()

    def settings(self, scenario: Scenario, rate: float) -> Settings:
        """LoadGen's settings of a scenario."""
        slo = self.slo or 0.1
        if self.official:
            return Settings.official(scenario, rate, slo)
        return Settings(scenario, self.seconds, self.queries, rate, slo)

    def of_emulator(self) -> Options:
        """What is worth knowing of a device that is emulated: its labels, and what an image costs the emulator."""
        few = min(self.queries, EMULATED)
        return replace(self, scenarios=(), callers=1, seconds=0.0, queries=few, arrivals=None, rounds=0)


@dataclass
class Measuring:
    """One deployment's results while they come in.

    Args:
        save: called with the results after every step.
        folder: for LoadGen's logs and pictures.
    """

    options: Options
    save: Callable[[Result], None]
    folder: Path
    progress: Callable[[str], None]
    result: Result
    labels: Labels = field(default_factory=dict)

    def add(self, **facts: Any) -> None:
        """Takes facts in and saves."""
        self.result = self.result.model_copy(update=facts)
        self.save(self.result)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What goes wrong inside is noted, and the rest goes on."""
        self.progress(f"{self.result.deployment.name}: {name}")
        try:
            yield
        except StagekitError as error:
            self.note(f"{name}: {error}")
        except Exception as error:  # whatever a vendor's runtime raises, what was measured is kept
            self.note(f"{name}: {type(error).__name__}: {error}")
        except KeyboardInterrupt:
            self.note(f"{name}: interrupted")
            raise

    def note(self, problem: str) -> None:
        """The results are partial, and why."""
        self.add(status="partial", problems=(*self.result.problems, problem))


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
    with Session(deployment, options.tasks or None, trace=recording) as session:
        result = _result(deployment, manifest, session)
        options = options.of_emulator() if result.deployment.emulates else options
        names = list(session.tasks)
        if bundles is not None:
            bundles.check(manifest, names if options.uncut else ())
        pictures = find_pictures(data, list(session.tasks.values()), options.split)
        mix = read_mix(options.mix, names) if options.mix else everything(names)
        arrivals = read_arrivals(options.arrivals, names, pictures.stems) if options.arrivals else ()
        measuring = Measuring(options, save, folder, progress, result)
        measuring.add(mix=tuple(map(str, mix.request)))
        with measuring.step("warming up"):
            for index in range(1 if result.deployment.emulates else WARM):
                session.run(pictures.images[index % len(pictures.images)])
        opened = memory.resident()
        memory.forget_peak()
        chosen = samples(mix, len(pictures.images), SAMPLES)
        watch = Watch(
            recording,
            lambda: session.statistics,
            {e.digest: e.bytes for e in manifest.engines},
            bundles.macs() if bundles else {},
        )
        kinds = {index: sample.request for index, sample in enumerate(chosen)}
        system = SessionSystem(session, pictures.images, chosen, options.reuse)
        during = partial(watch.during, reuse=options.reuse, official=options.official)
        for name in options.scenarios:
            if name != "Server" or options.slo is not None:
                _scenario(measuring, name, partial(during, name, kinds=kinds), system)
        if options.callers:
            loop = partial(closed_loop, system, options.callers, options.seconds, least=options.queries)
            with measuring.step(f"closed loop of {options.callers}"):
                _keep(measuring, during("ClosedLoop", kinds=kinds, run=loop))
        if arrivals:
            timed = SessionSystem(session, pictures.images, [a.sample for a in arrivals], options.reuse)
            with measuring.step("recorded arrivals"):
                _keep(measuring, during("Arrivals", kinds={}, run=partial(replay, timed, arrivals)))
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
                    row = compare(session, bundles, task, pictures.images, options.rounds, store or Store.default())
                    measuring.add(baseline=(*measuring.result.baseline, row))
        if not result.deployment.emulates:
            with measuring.step("the device's limits"):
                measuring.add(roof=measure_roof())
    steadiest = measuring.result.scenario("SingleStream", options.reuse) or measuring.result.scenario("ClosedLoop")
    parts = spread(steadiest.samples.latency) if steadiest else None
    final = "partial" if measuring.result.problems else "complete"
    measuring.add(noise=noise.judged(probe, noise.probe(), parts), status=final)
    return measuring.result, measuring.labels


def _scenario(measuring: Measuring, name: Scenario, during: Callable[..., ScenarioResult], system: System) -> None:
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
            made = during(run=partial(loadgen.run, system, options.settings(name, 1.1 * rate), logs))
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
