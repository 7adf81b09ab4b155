"""Files that are there whole or not at all."""

from __future__ import annotations

import secrets
from contextlib import suppress
from os import PathLike
from pathlib import Path


def write_whole(path: str | PathLike[str], data: bytes) -> None:
    """Writes beside the target and moves into place: a reader never sees half a file, nor does an interrupt leave one.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    file = Path(path)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            part.unlink()
