"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagekit.whole import write_whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "page", b"old")
    write_whole(tmp_path / "page", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("page", b"new")]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_was_there_stays_when_writing_fails(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "page", b"old")

    def half(path: Path, data: bytes) -> int:
        path.open("wb").write(data[:1])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(type(error)) as caught:
        write_whole(tmp_path / "page", b"new")
    monkeypatch.undo()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("page", b"old")]
    if isinstance(caught.value, OSError):
        assert caught.value.filename == str(tmp_path / "page")
