"""A store that is full or read-only: a clear error, nothing half-written, and reading still works."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stagekit.errors import StoreError
from stagekit.store import EngineKey, Store
from stagekit.target import EngineBlob

CALLS = ("open", "mkdir", "rename", "fsync", "utime")
"""What the store changes a disk with; ``open`` only where it would write."""


def fail_from(monkeypatch: pytest.MonkeyPatch, code: int, allowed: int) -> Callable[[], int]:
    """Lets the first ``allowed`` changes through and fails every later one; returns a count of the failed."""
    made = [0]

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            writes = name != "open" or (args[1] if len(args) > 1 else kwargs.get("flags", 0)) & (
                os.O_WRONLY | os.O_RDWR
            )
            if writes:
                made[0] += 1
                if made[0] > allowed:
                    raise OSError(code, os.strerror(code), *([str(args[0])] if isinstance(args[0], str | Path) else []))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
    return lambda: max(0, made[0] - allowed)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_wherever_the_disk_gives_out_nothing_is_half_written(
    tmp_path: Path, key: EngineKey, builder: Any, code: int
) -> None:
    for allowed in range(100):
        store = Store(tmp_path / str(allowed))
        with pytest.MonkeyPatch.context() as patch:
            failed = fail_from(patch, code, allowed)
            try:
                stored = store.get_or_build(key, builder(key))
            except StoreError as error:
                assert "STAGEKIT_STORE" in str(error)
                assert str(store.root) in str(error)
            else:
                assert allowed > 10  # it was really tried at every step before
                assert failed() <= 2  # the time of last use, which is written as well as can be
                assert store.get(key) == stored.blob
                return
        left = {path.name for path in store.root.rglob("*") if path.is_file()}
        complete = store.get(key) is not None  # renamed, and the sync of the folder failed
        assert left == (set() if not complete else {"engine.xml", "a.bin", "engine.json", "used"})
        assert store.get_or_build(key, builder(key)).cached is complete
    pytest.fail("the builder never got through")


def test_a_builder_without_space_is_a_full_store(store: Store, key: EngineKey) -> None:
    def build(workdir: Path) -> EngineBlob:
        (workdir / "half").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="no space is left") as caught:
        store.get_or_build(key, build)
    assert "store gc" in (caught.value.remedy or "")
    assert list((store.root / "tmp").iterdir()) == []


def test_a_store_below_a_file_is_an_error_that_names_it(tmp_path: Path, key: EngineKey, builder: Any) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file" / "store")
    assert store.get(key) is None
    assert store.ls() == []
    with pytest.raises(StoreError, match="STAGEKIT_STORE") as caught:
        store.get_or_build(key, builder(key))
    assert str(tmp_path / "file") in str(caught.value.where)
    with pytest.raises(StoreError):
        store.register_root(tmp_path)


def test_a_read_only_store_serves_what_it_has(
    store: Store, key: EngineKey, builder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = store.get_or_build(key, builder(key))
    fail_from(monkeypatch, errno.EROFS, 0)
    assert store.get(key) == built.blob
    assert store.get_or_build(key, builder(key)).cached
    assert store.ls()
    assert store.verify() == []


def test_damage_in_a_read_only_store_is_told_and_not_given_out(
    store: Store, key: EngineKey, builder: Any, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.get_or_build(key, builder(key)).blob
    (blob.root / "engine.xml").unlink()
    fail_from(monkeypatch, errno.EROFS, 0)
    assert store.get(key) is None
    assert "cannot be moved aside" in warnings[0]
    with pytest.raises(StoreError, match="cannot be written"):
        store.get_or_build(key, builder(key))


def test_an_export_without_space_leaves_nothing(
    store: Store, key: EngineKey, builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.get_or_build(key, builder(key))

    def full(source: Path, destination: Path) -> None:
        destination.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(destination))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(StoreError, match="no space is left"):
        store.export_entry(key.digest, tmp_path / "out" / "deploy")
    assert list((tmp_path / "out").iterdir()) == []
