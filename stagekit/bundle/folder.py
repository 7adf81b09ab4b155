"""Bundles as folders: read with every check, written whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from stagekit.bundle.manifest import GraphEntry, Manifest, StagesManifest
from stagekit.errors import BundleError, GraphError, StagekitError
from stagekit.whole import write_whole

if TYPE_CHECKING:
    from stagekit.graph import Graph

MANIFEST = "manifest.json"
KINDS = ("stages", "task", "deploy", "calibration")
DAMAGED = "the file was changed or damaged: make the bundle again"

M = TypeVar("M", bound=Manifest)


def read_manifest(folder: Path, kind: type[M]) -> M:
    """The validated manifest of a bundle.

    Raises:
        BundleError: no such folder, no manifest, another kind of bundle, an unknown schema, or wrong contents.
    """
    expected = kind.model_fields["kind"].default
    path = folder / MANIFEST
    if not path.is_file():
        found = "no such folder" if not folder.exists() else f"expected a .{expected} folder with a {MANIFEST}"
        raise BundleError(found, where=folder)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"the manifest cannot be read: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise BundleError(f"the manifest is not JSON: {error}", where=path) from error
    if not isinstance(data, dict) or data.get("kind") != expected:
        raise BundleError(
            f"expected a bundle of kind {expected!r}, found {data.get('kind') if isinstance(data, dict) else data!r}",
            where=folder,
        )
    if data.get("schema") != 1:
        raise BundleError(
            f"its schema is {data.get('schema')!r}, this version of stagekit reads schema 1",
            where=path,
            remedy="use the stagekit version that wrote it, or make the bundle again",
        )
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise BundleError(f"the manifest is not valid: {problems}", where=path) from error
    except StagekitError as error:
        raise BundleError(f"the manifest is not valid: {error.what}", where=path) from error


def read_graph(folder: Path, entry: GraphEntry) -> Graph:
    """A bundle's graph, proven to be the one that the manifest names.

    Raises:
        BundleError: the file is missing or no graph, or its fingerprint differs.
    """
    from stagekit.graph import load

    try:
        loaded = load(folder / entry.graph)
    except GraphError as error:
        raise BundleError(f"{entry.graph}: {error.what}", where=folder, remedy=DAMAGED) from error
    if loaded.fingerprint != entry.fingerprint:
        raise BundleError(
            f"the contents of {entry.graph} are not what the manifest says:"
            f" fingerprint {loaded.fingerprint[:16]}, expected {entry.fingerprint[:16]}",
            where=folder,
            remedy=DAMAGED,
        )
    return loaded


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes (or replaces, atomically) the manifest of a bundle."""
    text = json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / MANIFEST, text.encode())


def check_writable(destination: Path, kind: str) -> None:
    """What takes long asks first whether its result may be written.

    Args:
        kind: of the bundle to be written, one of :data:`KINDS`.

    Raises:
        BundleError: something other than a bundle of that kind stands at ``destination``.
        StagekitError: nothing can be written there.
    """
    try:
        if not destination.exists() or _is_empty_folder(destination):
            return
        found = _kind(destination)
    except OSError as error:
        raise StagekitError(f"cannot write there: {error.strerror}", where=destination) from error
    if found != kind:
        what = "is not a bundle" if found is None else f"is a bundle of kind {found!r}, not {kind!r}"
        raise BundleError(f"this exists and {what}; it will not be overwritten", where=destination)


@contextmanager
def writing(destination: Path, kind: str) -> Iterator[Path]:
    """A fresh folder that becomes ``destination`` when the block ends well and vanishes when it does not.

    A bundle of the same kind already there is replaced whole, at the end; anything else there is left alone.

    Raises:
        BundleError: something else stands at ``destination``.
        StagekitError: it cannot be written.
    """
    check_writable(destination, kind)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    except OSError as error:
        raise StagekitError(f"cannot write there: {error.strerror}", where=destination) from error
    try:
        yield temporary
        temporary.chmod(0o755)
        _replace_folder(temporary, destination)
    except OSError as error:
        raise StagekitError(f"cannot write there: {error.strerror or error}", where=destination) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _kind(path: Path) -> str | None:
    """The kind of bundle, or none where the manifest is not one of ours: other things come with one too."""
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    ours = isinstance(data, dict) and data.get("kind") in KINDS and "schema" in data
    return str(data["kind"]) if ours else None


def _replace_folder(new: Path, destination: Path) -> None:
    if not destination.exists():
        new.rename(destination)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
    destination.rename(old / "bundle")
    try:
        new.rename(destination)
    except OSError:
        (old / "bundle").rename(destination)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def check_frames(folder: Path, manifest: StagesManifest) -> None:
    """The first stage must take images as they come.

    Raises:
        BundleError: it takes floats, and nobody said how an image becomes them.
    """
    spec = manifest.frame.spec
    if (spec.dtype, spec.layout) != ("uint8", "NHWC"):
        raise BundleError(
            f"its first stage takes {spec}, and nothing says how an image becomes that",
            where=folder,
            remedy="partition the model again with --mean and --std, so that it takes uint8 frames",
        )
