"""What is stored is found again, whole; what is not whole is never given out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stagekit.errors import CompileError, EngineError, StoreError
from stagekit.store import EngineKey, Store, file_digest, load_entry
from stagekit.store.key import canonical
from stagekit.target import EngineBlob

Keys = Callable[[int], EngineKey]


def folder_of(store: Store, key: EngineKey) -> Path:
    return store.root / "objects" / key.digest[:2] / key.digest


def all_files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_an_engine_is_built_once_and_then_found(store: Store, key: EngineKey, builder: Any) -> None:
    build = builder(key)
    first, second = store.get_or_build(key, build), store.get_or_build(key, build)
    assert (first.cached, second.cached, build.runs) == (False, True, 1)
    assert first.blob == second.blob == store.get(key)
    assert first.bytes == second.bytes == sum(map(len, build.files.values()))
    assert 0 <= second.seconds < 5


def test_a_missing_engine_is_none_and_creates_nothing(store: Store, key: EngineKey) -> None:
    assert store.get(key) is None
    assert not store.root.exists()


def test_an_entry_holds_the_engines_files_and_its_sidecar_alone(store: Store, key: EngineKey, builder: Any) -> None:
    build = builder(key)
    blob = store.get_or_build(key, build).blob
    assert blob.root == folder_of(store, key)
    assert all_files(blob.root) == {"engine.xml", "weights/a.bin", "engine.json", "used"}
    assert {name: (blob.root / name).read_bytes() for name in blob.files} == build.files
    assert all_files(store.root) == {str((blob.root / n).relative_to(store.root)) for n in all_files(blob.root)}


def test_the_sidecar_says_what_the_engine_is(store: Store, key: EngineKey, builder: Any, clock: Any) -> None:
    blob = store.get_or_build(key, builder(key)).blob
    text = (blob.root / "engine.json").read_bytes()
    sidecar = json.loads(text)
    assert sidecar["schema"] == 1
    assert sidecar["key"] == key.to_dict()
    assert [f["name"] for f in sidecar["files"]] == list(blob.files)
    assert all(f["sha256"] == file_digest(blob.root / f["name"]) for f in sidecar["files"])
    assert sidecar["metadata"] == {"format": 3, "shape": [1, 2]} == blob.metadata
    assert sidecar["report"] == {"cycles": 12.5, "by_size": {"10": "ten", "9": "nine"}} == blob.report
    assert datetime.fromisoformat(sidecar["created"]).timestamp() == clock.now
    assert text == json.dumps(sidecar, sort_keys=True, separators=(",", ":")).encode()


def test_a_builder_that_raises_leaves_nothing_behind(store: Store, key: EngineKey) -> None:
    def build(workdir: Path) -> EngineBlob:
        (workdir / "half").write_bytes(b"x")
        raise CompileError("node 7 is not possible")

    with pytest.raises(CompileError, match="node 7"):
        store.get_or_build(key, build)
    assert all_files(store.root) == set()
    assert list((store.root / "tmp").iterdir()) == []


def test_an_interrupted_builder_leaves_nothing_behind(store: Store, key: EngineKey) -> None:
    def build(workdir: Path) -> EngineBlob:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_build(key, build)
    assert all_files(store.root) == set()


def test_a_builders_own_missing_file_is_not_blamed_on_the_store(store: Store, key: EngineKey) -> None:
    def build(workdir: Path) -> EngineBlob:
        raise FileNotFoundError(2, "No such file or directory", "trtexec")

    with pytest.raises(FileNotFoundError, match="trtexec"):
        store.get_or_build(key, build)


@pytest.mark.parametrize(
    "names", [("../x",), ("/etc/hostname",), ("engine.json",), ("Used",), ("a", "A"), ("gone",), ("link",)]
)
def test_a_builder_cannot_name_files_that_are_not_its_own(store: Store, key: EngineKey, names: tuple[str, ...]) -> None:
    def build(workdir: Path) -> EngineBlob:
        for name in ("engine.json", "Used", "a", "A", "../x"):
            (workdir / name).write_bytes(b"x")
        (workdir / "link").symlink_to("/etc/hostname")
        return EngineBlob(workdir, names, (), ())

    with pytest.raises(CompileError, match="target"):
        store.get_or_build(key, build)
    assert all_files(store.root) == set()


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": b"bytes"}, {"x": {1, 2}}])
def test_metadata_that_is_not_json_is_refused(store: Store, key: EngineKey, metadata: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match="not JSON"):
        store.get_or_build(key, lambda workdir: EngineBlob(workdir, (), (), (), metadata))
    assert all_files(store.root) == set()


def test_ls_tells_each_engine_the_last_used_first(store: Store, keys: Keys, builder: Any, clock: Any) -> None:
    for number in range(3):
        store.get_or_build(keys(number), builder(keys(number)))
        clock.now += 60
    store.get(keys(0))
    entries = store.ls()
    assert [entry.graph for entry in entries] == [keys(n).graph for n in (0, 2, 1)]
    newest = entries[0]
    assert (newest.digest, newest.target, newest.profile) == (keys(0).digest, "fake", "ab" * 32)
    assert (newest.created, newest.last_used) == tuple(datetime.fromtimestamp(t, UTC) for t in (1.7e9, 1.7e9 + 180))
    assert newest.bytes == sum(map(len, builder(keys(0)).files.values()))
    assert newest.problem == ""


def test_ls_lists_an_engine_whose_sidecar_is_gone(store: Store, key: EngineKey, builder: Any) -> None:
    blob = store.get_or_build(key, builder(key)).blob
    (blob.root / "engine.json").unlink()
    (entry,) = store.ls()
    assert entry.digest == key.digest
    assert "engine.json" in entry.problem
    assert entry.bytes == sum(map(len, builder(key).files.values()))


def test_listing_a_hundred_engines_takes_no_time(store: Store, key: EngineKey, keys: Keys, builder: Any) -> None:
    store.get_or_build(key, builder(key))
    sidecar = json.loads((folder_of(store, key) / "engine.json").read_bytes())
    for number in range(1, 100):
        folder = folder_of(store, keys(number))
        folder.mkdir(parents=True)
        with (folder / "engine.xml").open("wb") as file:
            file.truncate(1 << 30)  # sparse: reading it would take seconds
        body = {**sidecar, "key": keys(number).to_dict()}
        del body["seal"]
        (folder / "engine.json").write_bytes(sealed(body))
    begun = time.perf_counter()
    entries = store.ls()
    assert time.perf_counter() - begun < 1
    assert len(entries) == 100
    assert not any(entry.problem for entry in entries)


def test_an_empty_store_lists_and_verifies_as_empty(store: Store) -> None:
    assert store.ls() == []
    assert store.verify() == []


def test_an_exported_engine_needs_no_store(store: Store, key: EngineKey, builder: Any, tmp_path: Path) -> None:
    build = builder(key)
    original = store.get_or_build(key, build).blob
    copy = store.export_entry(key.digest, tmp_path / "x.deploy" / "engines" / "stage0")
    for path in original.root.rglob("*"):
        if path.is_file():
            path.write_bytes(b"changed in place")
    assert load_entry(tmp_path / "x.deploy" / "engines" / "stage0", key.digest) == copy
    assert copy == replace(original, root=copy.root)
    assert {name: (copy.root / name).read_bytes() for name in copy.files} == build.files
    assert all_files(tmp_path / "x.deploy") == {f"engines/stage0/{n}" for n in (*build.files, "engine.json")}


def test_a_damaged_engine_is_not_exported(store: Store, key: EngineKey, builder: Any, tmp_path: Path) -> None:
    blob = store.get_or_build(key, builder(key)).blob
    (blob.root / "engine.xml").write_bytes(b"<bad/>" * 9)
    with pytest.raises(EngineError, match=r"engine\.xml: expected sha256 .* found sha256"):
        store.export_entry(key.digest, tmp_path / "deploy")
    assert not [path for path in tmp_path.rglob("*") if "deploy" in path.name]


def test_exporting_overwrites_nothing(store: Store, key: EngineKey, builder: Any, tmp_path: Path) -> None:
    store.get_or_build(key, builder(key))
    (tmp_path / "deploy").mkdir()
    store.export_entry(key.digest, tmp_path / "deploy")
    before = all_files(tmp_path)
    with pytest.raises(StoreError, match="not empty"):
        store.export_entry(key.digest, tmp_path / "deploy")
    assert all_files(tmp_path) == before


@pytest.mark.parametrize("digest", ["0" * 64, "../..", "", "A" * 64])
def test_exporting_an_unknown_engine_names_the_way_out(store: Store, digest: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no engine is called") as caught:
        store.export_entry(digest, tmp_path / "deploy")
    assert "store ls" in (caught.value.remedy or "")


def test_an_engine_exported_under_another_name_is_foreign(
    store: Store, keys: Keys, builder: Any, tmp_path: Path
) -> None:
    store.get_or_build(keys(0), builder(keys(0)))
    store.export_entry(keys(0).digest, tmp_path / "deploy")
    with pytest.raises(EngineError, match=f"expected the key {keys(1).digest}"):
        load_entry(tmp_path / "deploy", keys(1).digest)


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({"STAGEKIT_STORE": "/s/t", "XDG_CACHE_HOME": "/c"}, "/s/t"),
        ({"STAGEKIT_STORE": "", "XDG_CACHE_HOME": "/c"}, "/c/stagekit/engines"),
        ({"XDG_CACHE_HOME": "relative"}, "/h/.cache/stagekit/engines"),
        ({}, "/h/.cache/stagekit/engines"),
        ({"STAGEKIT_STORE": "~/s"}, "/h/s"),
    ],
)
def test_the_default_store_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], root: str
) -> None:
    for name in ("STAGEKIT_STORE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/h", **environment}.items():
        monkeypatch.setenv(name, value)
    assert Store.default().root == Path(root)


def sealed(body: dict[str, Any]) -> bytes:
    """A sidecar's bytes, sealed as somebody who knows how would."""
    return canonical({**body, "seal": hashlib.sha256(canonical(body)).hexdigest()})
