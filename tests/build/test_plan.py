"""Boundaries in the form that was measured to be quickest, remembered, and kept to by tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_onnxruntime import OnnxRuntimeTarget

from stagekit import targets
from stagekit.build import plan as planning
from stagekit.build.deploy import Compiled, Layout, compile_bundles
from stagekit.build.engines import Builder
from stagekit.build.fuse import runs
from stagekit.build.placement import MEMORY_BANDWIDTH, Load, choose, price
from stagekit.bundle import DeployManifest, read_manifest
from stagekit.graph import TensorSpec
from stagekit.session import Session
from stagekit.store import Store
from stagekit.target import Availability, Profile
from stagekit.targets import load_profile


class Offering(OnnxRuntimeTarget):
    """Takes and gives maps channels last as well."""

    def boundaries(self, spec: TensorSpec, profile: Profile) -> list[TensorSpec]:
        return [spec, spec.transposed("NHWC")] if spec.layout == "NCHW" else [spec]


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    monkeypatch.setattr(targets, "get", lambda name: Offering())
    return Builder(Offering(), load_profile("ort-f32"), Store(tmp_path / "store"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many forms were compared, each time; the second is always said to take half the time."""
    calls: list[int] = []

    def measure(chains: list[Any], frame: Any, batch: int) -> list[list[float]]:
        calls.append(len(chains))
        for first, second in chains:
            second(first(frame, batch), batch)
        return [[1.0, 1.0], [0.5, 0.6]][: len(chains)]

    monkeypatch.setattr(planning, "measure", measure)
    return calls


def picture() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def results(path: Path) -> dict[str, Any]:
    with Session(path) as session:
        return session.run(picture())


def build(zoo: Any, builder: Builder, path: Path | None, **layout: Any) -> Compiled:
    return compile_bundles(zoo.stages, list(zoo.tasks.values()), builder, path, layout=Layout(**layout))


def test_the_quickest_form_is_kept_and_tasks_conform_to_it(
    zoo: Any, builder: Builder, measured: list[int], tmp_path: Path
) -> None:
    build(zoo, builder, tmp_path / "planned.deploy")
    assert measured == [2, 2]  # behind the stem and stage1; what stage2 gives, which no stage reads, follows
    manifest = read_manifest(tmp_path / "planned.deploy", DeployManifest)
    assert [[t.layout for t in b.chosen] for b in manifest.plan] == [["NHWC"], ["NHWC"], ["NHWC"]]
    assert [f.milliseconds for f in manifest.plan[0].tried] == [1000.0, 550.0]
    plain = Builder(OnnxRuntimeTarget(), builder.profile, builder.store)
    build(zoo, plain, tmp_path / "plain.deploy")
    a, b = results(tmp_path / "planned.deploy"), results(tmp_path / "plain.deploy")
    assert all(np.array_equal(a[task], b[task]) for task in zoo.tasks)


def test_a_plan_is_measured_once_and_again_only_when_asked(zoo: Any, builder: Builder, measured: list[int]) -> None:
    first = build(zoo, builder, None)
    again = build(zoo, builder, None)
    assert len(measured) == 2
    assert [e.digest for e in first.engines] == [e.digest for e in again.engines]
    assert not any(e.cached for e in first.engines) and all(e.cached for e in again.engines)
    build(zoo, builder, None, replan=True)
    assert len(measured) == 4


@pytest.mark.parametrize(("second", "taken"), [(0.9, "NHWC"), (1.0, "NHWC"), (1.01, "NHWC"), (1.05, "NCHW")])
def test_of_forms_equally_quick_the_one_nearest_to_the_kernels_is_taken(
    zoo: Any, builder: Builder, monkeypatch: pytest.MonkeyPatch, second: float, taken: str
) -> None:
    monkeypatch.setattr(planning, "measure", lambda chains, frame, batch: [[1.0], [second]])
    made = build(zoo, builder, None)
    assert {t.layout for b in made.manifest.plan[:-1] for t in b.chosen} == {taken}


def test_a_task_added_later_conforms_to_the_plan(
    zoo: Any, builder: Builder, measured: list[int], tmp_path: Path
) -> None:
    from stagekit.build.deploy import compile_into

    path = tmp_path / "d.deploy"
    compile_bundles(zoo.stages, [zoo.tasks["sea"]], builder, path)
    compile_into(path, [zoo.tasks["land"]], builder)
    assert len(measured) == 2
    whole = tmp_path / "whole.deploy"
    build(zoo, builder, whole)
    assert np.array_equal(results(path)["land"], results(whole)["land"])


def test_damage_to_a_remembered_plan_is_measured_over(zoo: Any, builder: Builder, measured: list[int]) -> None:
    build(zoo, builder, None)
    (path,) = (builder.store.root / "plans").iterdir()
    path.write_text("{")
    build(zoo, builder, None)
    assert len(measured) == 4


class Plain(OnnxRuntimeTarget):
    """Takes and gives nothing but the plain form."""

    def boundaries(self, spec: TensorSpec, profile: Profile) -> list[TensorSpec]:
        return [spec]


def test_where_a_target_knows_one_form_nothing_is_measured(zoo: Any, tmp_path: Path, measured: list[int]) -> None:
    made = build(zoo, Builder(Plain(), load_profile("ort-f32"), Store(tmp_path / "store")), None)
    assert measured == [] and not (tmp_path / "store" / "plans").exists()
    assert [b.tried for b in made.manifest.plan] == [(), (), ()]


class Absent(OnnxRuntimeTarget):
    """A device that is not here; takes and gives halves as well, and integers of twice the bytes."""

    def boundaries(self, spec: TensorSpec, profile: Profile) -> list[TensorSpec]:
        return [spec, replace(spec, dtype="int64"), replace(spec, dtype="float16"), spec.transposed("NHWC")]

    def probe(self) -> Availability:
        return replace(super().probe(), run=False)


def test_where_nothing_can_be_measured_the_fewest_bytes_cross(zoo: Any, tmp_path: Path, measured: list[int]) -> None:
    made = build(zoo, Builder(Absent(), load_profile("ort-f32"), Store(tmp_path / "store")), None)
    assert measured == [] and not (tmp_path / "store" / "plans").exists()
    forms = [[(t.dtype, t.layout) for t in b.chosen] for b in made.manifest.plan]
    assert forms == [[("float16", "NCHW")]] * 3


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        ({"d"}, [(0, 3)]),
        ({"b", "d"}, [(0, 1), (2, 3)]),
        ({"a", "b", "c", "d"}, []),
        ({"a", "d"}, [(1, 3)]),
        ({"b"}, [(0, 1)]),
        (set(), []),
    ],
)
def test_runs_end_where_a_task_needs_something(needed: set[str], expected: list[tuple[int, int]]) -> None:
    assert runs(["a", "b", "c", "d"], needed) == expected


def test_fused_engines_come_beside_the_others_and_give_the_same(
    zoo: Any, builder: Builder, measured: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "fused.deploy"
    made = compile_bundles(zoo.stages, [zoo.tasks["line"]], builder, path, layout=Layout(fuse=True))
    assert [(r.first, r.last) for r in made.manifest.fused] == [("stem", "stage1")]
    assert [e.graph for e in made.engines] == ["stem", "stage1", "stage2", "line/head", "stem-stage1"]
    with Session(path) as session:
        fused = session.run(picture())["line"]
        assert set(session.statistics.calls) == {"stem-stage1", "stage2", "line/head"}
    build(zoo, builder, tmp_path / "plain.deploy")
    assert np.mean(fused == results(tmp_path / "plain.deploy")["line"]) > 0.999


def test_a_task_that_prompts_inside_a_fused_run_uses_the_stages(
    zoo: Any, builder: Builder, measured: list[int], tmp_path: Path
) -> None:
    from stagekit.build.deploy import compile_into

    path = tmp_path / "fused.deploy"
    compile_bundles(zoo.stages, [zoo.tasks["line"]], builder, path, layout=Layout(fuse=True))
    compile_into(path, [zoo.tasks["land"]], builder)
    with Session(path) as session:
        session.run(picture())
        assert "stem-stage1" not in session.statistics.calls
    with Session(path, ["line"]) as session:
        session.run(picture())
        assert "stem-stage1" in session.statistics.calls


def test_adapters_may_run_on_a_device_of_their_own(
    zoo: Any, builder: Builder, measured: list[int], tmp_path: Path
) -> None:
    other = Builder(OnnxRuntimeTarget(), builder.profile, builder.store)
    build(zoo, builder, tmp_path / "two.deploy", adapters=other)
    assert measured == [], "only forms that both sides know are tried"
    with Session(tmp_path / "two.deploy") as session:
        apart = session.run(picture())
        assert set(session.statistics.busy) == {"onnxruntime CPU", "onnxruntime CPU (adapters)"}
        assert all(session.statistics.busy.values())
    plain = Builder(OnnxRuntimeTarget(), builder.profile, builder.store)
    build(zoo, plain, tmp_path / "one.deploy")
    together = results(tmp_path / "one.deploy")
    assert all(np.array_equal(apart[task], together[task]) for task in zoo.tasks)


def test_the_price_of_an_arrangement_is_its_longest_load_with_transfers() -> None:
    assert price(Load(3.0, 2.0)) == 5.0
    assert price(Load(3.0, 2.0, moved=MEMORY_BANDWIDTH, apart=True)) == 4.0
    assert choose([Load(3.0, 2.0), Load(3.0, 2.0, 0, True)]) == 1
    assert choose([Load(3.0, 2.0), Load(3.0, 2.0, 10 * MEMORY_BANDWIDTH, True)]) == 0, "transfers eat the gain"
    assert choose([Load(3.0, 2.0), Load(3.0, 1.9)]) == 0, "a few percent are not worth a second device"
