"""Names stay inside; digests are those of the standard tool; failures say what to do."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagekit.store import file_digest
from stagekit.store.files import is_inside, store_error


def test_a_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert file_digest(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    assert file_digest(str(tmp_path / "f")) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["a", "a.bin", "a/b", "..a", "a/...", "a b", "ü"])
def test_plain_relative_names_are_inside(name: str) -> None:
    assert is_inside(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../b", "/x", "a//b", "a/", "./a", "a\\b", "C:x", "C:/x", "a\0"]
)
def test_other_names_are_not(name: str) -> None:
    assert not is_inside(name)


@given(st.text(alphabet="./ab", max_size=8))
def test_an_inside_name_never_leads_out(name: str) -> None:
    if is_inside(name):
        depth = 0
        for part in name.split("/"):
            depth += -1 if part == ".." else 1
            assert depth > 0
        assert not name.startswith("/")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EIO])
def test_a_failed_system_call_names_the_path_and_the_variable(code: int) -> None:
    error = store_error(OSError(code, "why", "/the/file"), Path("/the/store"))
    assert error.where == "/the/file"
    assert "/the/store" in error.what
    assert "STAGEKIT_STORE" in (error.remedy or "")
    assert ("store gc" in (error.remedy or "")) == (code in (errno.ENOSPC, errno.EDQUOT))
