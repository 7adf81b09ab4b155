"""Which targets this suite could try here; those that it could not are skipped once, with their reason."""

from __future__ import annotations

import pytest

from stagekit import targets

from .conftest import SHIPPED, why_not


@pytest.mark.parametrize(("name", "profile"), SHIPPED, ids=lambda value: value)
def test_a_profile_is_usable_here_or_says_why_and_what_to_do(name: str, profile: str) -> None:
    reason = why_not(name, profile)
    if reason:
        available = targets.get(name).probe()
        assert (available.build and available.run) or available.remedy, "an absent target must say what to install"
        pytest.skip(f"{profile}: {reason}")
