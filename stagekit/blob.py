"""What targets write down about an engine of files, and check before their vendor's library sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagekit.errors import EngineError
from stagekit.graph.spec import TensorSpec
from stagekit.target import EngineBlob, Profile, Target


def made_blob(
    target: Target,
    profile: Profile,
    folder: Path,
    files: Sequence[str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> EngineBlob:
    """The engine of files that were just written into a folder."""
    metadata = {
        "toolchain": target.toolchain(profile),
        "device": target.device(profile),
        "batches": list(profile.batch),
        "bytes": [(folder / name).stat().st_size for name in files],
    }
    return EngineBlob(folder, tuple(files), tuple(inputs), tuple(outputs), metadata)


def check_blob(blob: EngineBlob, target: Target, profile: Profile) -> None:
    """A foreign or incomplete engine never reaches the vendor.

    Raises:
        EngineError: made by another toolchain or for another device, or a file is missing or cut short.
    """
    for key, here in (("toolchain", target.toolchain(profile)), ("device", target.device(profile))):
        made = blob.metadata.get(key)
        if made != here:
            raise EngineError(
                f"the engine was made with {key} {made!r}, here it is {here!r}",
                where=blob.root,
                remedy="compile it again on this machine",
            )
    check_sizes(blob)


def check_sizes(blob: EngineBlob, remedy: str = "compile it again") -> None:
    """Raises EngineError where a file is missing or cut short."""
    for name, size in zip(blob.files, blob.metadata["bytes"], strict=True):
        path = blob.root / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise EngineError(
                f"expected {size} bytes, found {'no file' if found is None else found}",
                where=path,
                remedy=remedy,
            )
