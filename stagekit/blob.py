"""Checking a compiled engine before its vendor's library sees it."""

from __future__ import annotations

from collections.abc import Mapping

from stagekit.errors import EngineError
from stagekit.target import EngineBlob


def check_blob(blob: EngineBlob, expected: Mapping[str, str]) -> None:
    """A foreign or incomplete engine never reaches the vendor.

    Raises:
        EngineError: made by another toolchain or for another device, or a file is missing or cut short.
    """
    for key, here in expected.items():
        made = blob.metadata.get(key)
        if made != here:
            raise EngineError(
                f"the engine was made with {key} {made!r}, here it is {here!r}",
                where=blob.root,
                remedy="compile it again on this machine",
            )
    for name, size in zip(blob.files, blob.metadata["bytes"], strict=True):
        path = blob.root / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise EngineError(
                f"expected {size} bytes, found {'no file' if found is None else found}",
                where=path,
                remedy="compile it again",
            )
