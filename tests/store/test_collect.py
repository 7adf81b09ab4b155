"""What a collection removes, and what it must not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stagekit.errors import StoreError
from stagekit.store import EngineKey, Store
from stagekit.store.lock import held

Keys = Callable[[int], EngineKey]
HOUR = timedelta(hours=1)


@pytest.fixture
def stocked(store: Store, keys: Keys, builder: Any, clock: Any) -> Store:
    """Four engines of 100 bytes, used four, three, two and one hours ago."""
    for number in range(4):
        store.get_or_build(keys(number), builder(keys(number), {"engine": b"x" * 100}))
        clock.now += 3600
    return store


def left(store: Store, keys: Keys) -> list[int]:
    present = {entry.digest for entry in store.ls()}
    return [number for number in range(4) if keys(number).digest in present]


def test_without_limits_all_but_the_roots_goes(stocked: Store, keys: Keys) -> None:
    collected = stocked.gc(roots=[keys(2).digest])
    assert left(stocked, keys) == [2]
    assert [entry.digest for entry in collected.removed] == [keys(n).digest for n in (0, 1, 3)]
    assert (collected.bytes, collected.in_use, collected.dry_run) == (300, (), False)
    assert not [path for name in ("tmp", "locks") for path in (stocked.root / name).iterdir()]


@pytest.mark.parametrize(
    ("roots", "older_than", "max_bytes", "remaining"),
    [
        ((), 2.5 * HOUR, None, [2, 3]),
        ((), 9 * HOUR, None, [0, 1, 2, 3]),
        ((0,), 2.5 * HOUR, None, [0, 2, 3]),
        ((), None, 400, [0, 1, 2, 3]),
        ((), None, 399, [1, 2, 3]),
        ((), None, 200, [2, 3]),
        ((0,), None, 200, [0, 3]),
        ((0, 1, 2), None, 0, [0, 1, 2]),
        ((), 3.5 * HOUR, 200, [2, 3]),
        ((), 2.5 * HOUR, 300, [2, 3]),
        ((0,), 3.5 * HOUR, 300, [0, 2, 3]),
    ],
)
def test_limits_decide_what_goes(
    stocked: Store,
    keys: Keys,
    roots: tuple[int, ...],
    older_than: timedelta | None,
    max_bytes: int | None,
    remaining: list[int],
) -> None:
    names = [keys(number).digest for number in roots]
    planned = stocked.gc(names, older_than, max_bytes, dry_run=True)
    assert left(stocked, keys) == [0, 1, 2, 3]
    done = stocked.gc(names, older_than, max_bytes)
    assert left(stocked, keys) == remaining
    assert planned.removed == done.removed
    assert planned.bytes == done.bytes == 100 * (4 - len(remaining))
    assert planned.dry_run


def test_a_use_counts_as_new(stocked: Store, keys: Keys) -> None:
    stocked.get(keys(0))
    stocked.gc(older_than=2.5 * HOUR)
    assert left(stocked, keys) == [0, 2, 3]


def test_an_engine_that_is_locked_stays(stocked: Store, keys: Keys) -> None:
    with held(stocked.root / "locks" / keys(1).digest, lambda _: None):
        collected = stocked.gc()
    assert left(stocked, keys) == [1]
    assert [entry.digest for entry in collected.in_use] == [keys(1).digest]
    assert collected.bytes == 300


def test_an_engine_used_between_listing_and_removal_stays(
    stocked: Store, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stagekit.store import collect

    def use_meanwhile(*args: Any) -> Any:
        stocked.get(keys(3))
        return doomed(*args)

    doomed = collect._doomed
    monkeypatch.setattr(collect, "_doomed", use_meanwhile)
    collected = stocked.gc()
    assert left(stocked, keys) == [3]
    assert [entry.digest for entry in collected.in_use] == [keys(3).digest]


def test_engines_of_registered_deployments_stay(stocked: Store, keys: Keys, tmp_path: Path) -> None:
    deployment = deploy(tmp_path / "x.deploy", keys(0), keys(3))
    stocked.register_root(deployment)
    stocked.register_root(deployment)
    assert len(list((stocked.root / "roots").iterdir())) == 1
    stocked.gc()
    assert left(stocked, keys) == [0, 3]


def test_a_deployment_that_is_gone_protects_nothing_and_is_forgotten(
    stocked: Store, keys: Keys, tmp_path: Path
) -> None:
    deployment = deploy(tmp_path / "x.deploy", keys(0))
    stocked.register_root(deployment)
    shutil.rmtree(deployment)
    stocked.gc(dry_run=True)
    assert len(list((stocked.root / "roots").iterdir())) == 1
    stocked.gc()
    assert left(stocked, keys) == []
    assert list((stocked.root / "roots").iterdir()) == []


@pytest.mark.parametrize("manifest", ["{", "[]", '{"engines": 3}', '{"engines": [{}]}', None])
def test_a_deployment_that_cannot_be_read_is_told(
    stocked: Store, warnings: list[str], tmp_path: Path, manifest: str | None
) -> None:
    (tmp_path / "x.deploy").mkdir()
    if manifest is not None:
        (tmp_path / "x.deploy" / "manifest.json").write_text(manifest)
    stocked.register_root(tmp_path / "x.deploy")
    stocked.gc()
    assert len(warnings) == 1
    assert "x.deploy/manifest.json" in warnings[0]
    assert len(list((stocked.root / "roots").iterdir())) == 1


def test_a_damaged_root_is_told(stocked: Store, warnings: list[str]) -> None:
    (stocked.root / "roots").mkdir()
    (stocked.root / "roots" / "x.json").write_text("?")
    stocked.gc(dry_run=True)
    assert "x.json" in warnings[0]


def test_leftovers_and_damaged_engines_go_whatever_the_limits(stocked: Store, keys: Keys, builder: Any) -> None:
    abandoned = stocked.root / "tmp" / f"{keys(9).digest}-0123"
    abandoned.mkdir(parents=True)
    (abandoned / "half").write_bytes(b"y" * 7)
    (stocked.root / "locks" / keys(9).digest).write_text("999999")
    blob = stocked.get(keys(0))
    assert blob is not None
    (blob.root / "engine").write_bytes(b"z" * 100)
    assert stocked.get(keys(0)) is None
    planned = stocked.gc(older_than=9 * HOUR, dry_run=True)
    assert abandoned.exists()
    done = stocked.gc(older_than=9 * HOUR)
    assert done.leftovers == planned.leftovers
    assert done.bytes == planned.bytes > 107
    assert done.leftovers[0] == abandoned
    assert not [path for name in ("tmp", "locks", "damaged") for path in (stocked.root / name).iterdir()]
    assert left(stocked, keys) == [1, 2, 3]


def test_an_engine_without_a_sidecar_goes_like_any_other(stocked: Store, keys: Keys) -> None:
    for path in stocked.root.glob("objects/*/*/engine.json"):
        path.unlink()
    stocked.gc(roots=[keys(1).digest], older_than=2.5 * HOUR)
    assert left(stocked, keys) == [1, 2, 3]


def test_collecting_an_empty_store_is_nothing(store: Store) -> None:
    collected = store.gc()
    assert (collected.removed, collected.leftovers, collected.bytes) == ((), (), 0)
    assert not store.root.exists()


def test_a_store_that_cannot_be_written_says_so(stocked: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(stocked.root))

    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(StoreError, match="cannot be written"):
        stocked.gc()


def deploy(folder: Path, *keys: EngineKey) -> Path:
    """A deployment's folder as far as the store looks at it."""
    folder.mkdir()
    (folder / "manifest.json").write_text(
        json.dumps({"schema": 1, "engines": [{"digest": key.digest} for key in keys]})
    )
    return folder
