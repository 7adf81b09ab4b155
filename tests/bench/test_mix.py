"""Task mixes and recorded arrivals from their files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stagekit.bench.mix import everything, read_arrivals, read_mix, recorded, samples
from stagekit.errors import UsageError

KNOWN = ("landcover", "sea")
MIX = """
[[request]]
tasks = ["landcover", "sea"]
share = 3
[[request]]
tasks = ["sea", "landcover"]
images = "own"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_a_mix_has_its_shares(file: Path) -> None:
    file.write_text(MIX)
    mix = read_mix(file, KNOWN)
    kinds = Counter(s.request for s in samples(mix, 5, 4000))
    assert kinds[0] / 4000 == pytest.approx(0.75, abs=0.03)
    assert [str(a) for a in mix.request] == ["3 x landcover + sea", "1 x sea + landcover (an image each)"]


def test_tasks_share_an_image_or_have_one_each(file: Path) -> None:
    file.write_text(MIX)
    made = samples(read_mix(file, KNOWN), 5, 50)
    for sample in made:
        images = [image for image, _ in sample.parts]
        assert len(set(images)) == (1 if sample.request == 0 else 2)
        assert {t for _, tasks in sample.parts for t in tasks} == set(KNOWN)
    used = [image for s in made for image, _ in s.parts]
    assert used == [i % 5 for i in range(len(used))], "images come in turn"
    assert samples(read_mix(file, KNOWN), 5, 50) == made, "a mix is drawn alike each time"


def test_by_default_every_image_has_all_tasks() -> None:
    assert {s.parts[0][1] for s in samples(everything(KNOWN), 3, 9)} == {KNOWN}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "cannot be read"),
        ("", "request"),
        ('[[request]]\ntasks = ["see"]', "did you mean 'sea'"),
        ('[[request]]\ntasks = ["sea"]\nshares = 2', "shares"),
        ('[[request]]\ntasks = ["sea"]\nshare = 0', "share"),
        ('[[request]]\ntasks = ["sea"]\nshare = inf', "share"),
    ],
)
def test_a_wrong_mix_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_mix(file, KNOWN)


def test_arrivals_begin_at_zero_and_keep_their_distances(file: Path) -> None:
    file.write_text("seconds,tasks,image\n10.5,sea,b\n10.75,landcover+sea,\n11,sea,a\n")
    first, second, third = read_arrivals(file, KNOWN, ["a", "b"])
    assert [first.seconds, second.seconds, third.seconds] == [0.0, 0.25, 0.5]
    assert first.sample.parts == ((1, ("sea",)),)
    assert second.sample.parts == ((1, ("landcover", "sea")),)


def test_each_set_of_tasks_that_arrives_is_a_kind_of_its_own(file: Path) -> None:
    file.write_text("seconds,tasks\n0,sea\n1,landcover+sea\n2,sea\n")
    arrivals = read_arrivals(file, KNOWN, ["a"], kind=4)
    assert [a.sample.request for a in arrivals] == [4, 5, 4]
    assert [str(kind) for kind in recorded(arrivals)] == ["2 x sea", "1 x landcover + sea"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seconds,tasks\n", "found none"),
        ("time,tasks\n1,sea\n", "expected seconds,tasks"),
        ("seconds,tasks\nsoon,sea\n", r":2: expected seconds"),
        ("seconds,tasks\n1,sea\n0,sea\n", "comes before"),
        ("seconds,tasks\n1,sea\nnan,sea\n", r":3: expected seconds, found nan"),
        ("seconds,tasks\n1,sea\ninf,sea\n", r":3: expected seconds, found inf"),
        ("seconds,tasks\n1,lake\n", "no task 'lake'"),
        ("seconds,tasks,image\n1,sea,z\n", "no picture is called 'z'"),
    ],
)
def test_wrong_arrivals_are_refused_with_their_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_arrivals(file, KNOWN, ["a", "b"])
