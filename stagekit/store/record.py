"""The sidecar ``engine.json``: all that is known about a stored engine, sealed with its own hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from stagekit.errors import UsageError
from stagekit.graph.spec import TensorSpec
from stagekit.store.files import is_inside
from stagekit.store.key import EngineKey, canonical
from stagekit.target import EngineBlob

SCHEMA: Final = 1
SIDECAR: Final = "engine.json"
USED: Final = "used"


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what it should be: what was expected of it and what was found."""

    file: Path
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.file}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One of an engine's files: its name relative to the entry, its size and its SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """What the sidecar says.

    Args:
        files: in the target's own order.
        inputs: the engine's own, which may differ from the key's in what the target decides.
        created: when it was built.
        build_seconds: how long that took.
    """

    key: EngineKey
    files: tuple[FileRecord, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, Any]
    report: Mapping[str, Any]
    created: datetime
    build_seconds: float

    @property
    def size(self) -> int:
        """Bytes of all the engine's files."""
        return sum(file.size for file in self.files)

    def blob(self, folder: Path) -> EngineBlob:
        """The engine whose files lie in ``folder``."""
        names = tuple(file.name for file in self.files)
        return EngineBlob(folder, names, self.inputs, self.outputs, self.metadata, self.report)

    def to_bytes(self) -> bytes:
        """The sidecar's contents: canonical JSON, in which ``seal`` is the SHA-256 of the rest.

        Raises:
            TypeError, ValueError: the metadata or the report is not JSON.
        """
        body: dict[str, Any] = {
            "schema": SCHEMA,
            "key": self.key.to_dict(),
            "files": [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in self.files],
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": [spec.to_dict() for spec in self.outputs],
            "metadata": dict(self.metadata),
            "report": dict(self.report),
            "created": self.created.isoformat(),
            "build_seconds": self.build_seconds,
        }
        # To JSON and back first: tuples become lists and numbers used as keys strings, which sort in another order.
        return canonical(_sealed(json.loads(json.dumps(body, allow_nan=False))))


def read_record(folder: Path) -> Record | Damage:
    """The record in ``folder``, or why it cannot be trusted: not there, changed, of another schema, pointing outside.

    Raises:
        OSError: the file is there but the system does not let it be read.
    """
    path = folder / SIDECAR
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Damage(path, "a file", "nothing")
    except IsADirectoryError:
        return Damage(path, "a file", "a folder")
    try:
        return _parse(path, data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UsageError) as error:
        return Damage(path, "an engine's record", f"{type(error).__name__}: {error}")


def _parse(path: Path, data: bytes) -> Record | Damage:
    body = json.loads(data)
    if body.get("schema") != SCHEMA:
        return Damage(path, f"schema {SCHEMA}", f"schema {body.get('schema')!r}")
    # Comparing the bytes, not the seal alone, leaves no byte free: not a space, not an escape, not a second key.
    sealed = canonical(_sealed({name: value for name, value in body.items() if name != "seal"}))
    if sealed != data:
        return Damage(path, "contents that match the seal", f"changed contents ({len(data)} bytes)")
    files = tuple(FileRecord(f["name"], f["size"], f["sha256"]) for f in body["files"])
    for file in files:
        if not is_inside(file.name):
            return Damage(path, "files inside the entry", repr(file.name))
    return Record(
        key=EngineKey.from_dict(body["key"]),
        files=files,
        inputs=tuple(TensorSpec.from_dict(spec) for spec in body["inputs"]),
        outputs=tuple(TensorSpec.from_dict(spec) for spec in body["outputs"]),
        metadata=dict(body["metadata"]),
        report=dict(body["report"]),
        created=datetime.fromisoformat(body["created"]),
        build_seconds=float(body["build_seconds"]),
    )


def _sealed(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "seal": hashlib.sha256(canonical(body)).hexdigest()}
