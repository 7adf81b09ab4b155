"""Damage anywhere is found, told, moved aside, and mended by building again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagekit.errors import StoreError
from stagekit.store import EngineKey, Store
from stagekit.store.check import check
from stagekit.store.key import canonical

Keys = Callable[[int], EngineKey]
FILES = ("engine.xml", "weights/a.bin", "engine.json")


@pytest.fixture
def entry(store: Store, key: EngineKey, builder: Any) -> Path:
    """A sound engine's folder in the store."""
    return store.get_or_build(key, builder(key)).blob.root


def rewrite(entry: Path, **changes: Any) -> None:
    """Changes the sidecar as somebody would who knows how to seal it."""
    body = json.loads((entry / "engine.json").read_bytes())
    body.update(changes)
    del body["seal"]
    body["seal"] = hashlib.sha256(canonical(body)).hexdigest()
    (entry / "engine.json").write_bytes(canonical(body))


def only_damage(store: Store) -> tuple[str, str, str]:
    (damage,) = store.verify()
    return damage.file.name, damage.expected, damage.found


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_found(entry: Path, key: EngineKey, data: st.DataObject) -> None:
    path = entry / data.draw(st.sampled_from(FILES))
    sound = path.read_bytes()
    at, mask = data.draw(st.integers(0, len(sound) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(sound[:at] + bytes([sound[at] ^ mask]) + sound[at + 1 :])
    try:
        _, damages = check(entry, key.digest)
        assert [damage.file for damage in damages] == [path]
    finally:
        path.write_bytes(sound)
    assert check(entry, key.digest)[1] == ()


def test_every_flipped_bit_of_a_sidecar_is_found(entry: Path, key: EngineKey) -> None:
    path = entry / "engine.json"
    sound = path.read_bytes()
    for at in range(len(sound)):
        for bit in (0, 5, 7):  # 5 turns capitals into small letters, and so \uD8 into \ud8
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
            assert check(entry, key.digest)[1], (at, bit)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flip", "truncate", "extend", "remove", "empty", "folder", "link"])
def test_a_damaged_engine_is_moved_aside_and_built_again(
    store: Store, key: EngineKey, builder: Any, entry: Path, warnings: list[str], name: str, how: str
) -> None:
    path = entry / name
    sound = path.read_bytes()
    path.unlink()
    match how:
        case "flip":
            path.write_bytes(b"\x00" + sound[1:])
        case "truncate":
            path.write_bytes(sound[:-1])
        case "extend":
            path.write_bytes(sound + b" ")
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.mkdir()
        case "link":
            (store.root / "elsewhere").write_bytes(b"\x00" + sound[1:])
            path.symlink_to(store.root / "elsewhere")
    assert store.get(key) is None
    assert len(warnings) == 1
    assert name in warnings[0]
    assert "expected" in warnings[0]
    assert not entry.exists()
    assert [path.name[:64] for path in (store.root / "damaged").iterdir()] == [key.digest]
    build = builder(key)
    assert not store.get_or_build(key, build).cached
    assert store.get_or_build(key, build).cached
    assert (build.runs, len(warnings)) == (1, 1)
    assert store.verify() == []


def test_building_over_a_damaged_engine_mends_it_with_one_warning(
    store: Store, key: EngineKey, builder: Any, entry: Path, warnings: list[str]
) -> None:
    (entry / "engine.xml").unlink()
    stored = store.get_or_build(key, builder(key))
    assert not stored.cached
    assert len(warnings) == 1
    assert store.get(key) == stored.blob


def test_damage_says_what_was_expected_and_what_was_found(store: Store, entry: Path) -> None:
    sound = (entry / "engine.xml").read_bytes()
    changed = b"?" + sound[1:]
    (entry / "engine.xml").write_bytes(changed)
    (damage,) = store.verify()
    assert damage.file == entry / "engine.xml"
    assert damage.expected == f"sha256 {hashlib.sha256(sound).hexdigest()}"
    assert damage.found == f"sha256 {hashlib.sha256(changed).hexdigest()}"
    (entry / "engine.xml").write_bytes(sound[:7])
    assert only_damage(store) == ("engine.xml", f"{len(sound)} bytes", "7 bytes")
    (entry / "engine.xml").unlink()
    assert only_damage(store) == ("engine.xml", f"{len(sound)} bytes", "nothing")


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a/../../x", "..", ""])
def test_a_sidecar_cannot_point_outside(store: Store, key: EngineKey, entry: Path, name: str) -> None:
    rewrite(entry, files=[{"name": name, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}])
    (entry.parent / "x").write_bytes(b"x")
    assert only_damage(store) == ("engine.json", "files inside the entry", repr(name))
    assert store.get(key) is None


def test_a_linked_folder_cannot_lead_outside(store: Store, key: EngineKey, entry: Path, tmp_path: Path) -> None:
    shutil.move(entry / "weights", tmp_path / "weights")
    (entry / "weights").symlink_to(tmp_path / "weights")
    assert only_damage(store)[:2] == ("a.bin", "a file inside the entry")
    assert store.get(key) is None


def test_an_unknown_schema_is_not_read(store: Store, key: EngineKey, entry: Path) -> None:
    rewrite(entry, schema=2)
    assert only_damage(store) == ("engine.json", "schema 1", "schema 2")
    assert store.get(key) is None


def test_an_engine_under_a_foreign_key_is_not_loaded(
    store: Store, keys: Keys, entry: Path, warnings: list[str]
) -> None:
    foreign = store.root / "objects" / keys(1).digest[:2] / keys(1).digest
    shutil.copytree(entry, foreign)
    assert store.get(keys(1)) is None
    assert keys(0).digest in warnings[0]
    assert store.get(keys(0)) is not None


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b'{"schema":1}', b"\xff", b"[" * 100_000, b'{"schema":1,"seal":3}']
)
def test_nonsense_in_place_of_a_sidecar_is_damage(store: Store, key: EngineKey, entry: Path, text: bytes) -> None:
    (entry / "engine.json").write_bytes(text)
    assert store.get(key) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"files": 3},
        {"files": [{}]},
        {"inputs": [{"name": "x", "dtype": "f32", "shape": []}]},
        {"metadata": [1]},
        {"created": 5},
    ],
)
def test_a_sealed_sidecar_of_the_wrong_form_is_damage(
    store: Store, key: EngineKey, entry: Path, changes: dict[str, Any]
) -> None:
    rewrite(entry, **changes)
    assert store.get(key) is None


def test_verify_reports_and_leaves_everything_in_place(store: Store, keys: Keys, builder: Any, entry: Path) -> None:
    store.get_or_build(keys(1), builder(keys(1)))
    (entry / "engine.xml").unlink()
    (entry / "weights/a.bin").write_bytes(b"")
    said: list[str] = []
    assert {damage.file.name for damage in store.verify(progress=said.append)} == {"engine.xml", "a.bin"}
    assert len(said) == 2
    assert entry.exists()


def test_verify_with_repair_moves_the_damaged_aside(store: Store, keys: Keys, builder: Any, entry: Path) -> None:
    store.get_or_build(keys(1), builder(keys(1)))
    (entry / "engine.xml").unlink()
    assert len(store.verify(repair=True)) == 1
    assert not entry.exists()
    assert store.verify() == []
    assert [e.digest for e in store.ls()] == [keys(1).digest]


def test_verifying_is_no_use(store: Store, entry: Path, clock: Any) -> None:
    before = store.ls()
    clock.now += 1000
    store.verify(repair=True)
    assert store.ls() == before


def test_a_failing_disk_is_damage_but_a_refused_file_is_not(
    store: Store, key: EngineKey, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(code: int) -> Callable[[Path], str]:
        def digest(path: Path) -> str:
            raise OSError(code, os.strerror(code), str(path))

        return digest

    monkeypatch.setattr("stagekit.store.check.file_digest", failing(errno.EMFILE))
    with pytest.raises(StoreError, match=os.strerror(errno.EMFILE)):
        store.get(key)
    assert entry.exists()
    monkeypatch.setattr("stagekit.store.check.file_digest", failing(errno.EIO))
    assert store.get(key) is None
    assert not entry.exists()
