"""Recipes: what is refused, and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagekit.errors import UsageError
from stagekit.tune.recipe_file import parse_recipe, read_recipe

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.toml"))
MINIMAL = """
[task]
name = "water"
[backbone]
name = "lite0"
weights = "weights/lite0.pth"
[data]
folder = "../water"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipes" / "water.toml"
    path.parent.mkdir()
    path.write_text(MINIMAL)
    return path


def test_paths_are_relative_to_the_recipe(file: Path) -> None:
    recipe = read_recipe(file)
    assert recipe.data.folder.resolve() == (file.parents[1] / "water").resolve()
    assert recipe.backbone.weights == file.parent / "weights/lite0.pth"


def test_data_and_overrides_go_before_the_file(file: Path, tmp_path: Path) -> None:
    overrides = ["train.iterations=50", "method.kind=head", "train.augment.scale=[0.5, 2.0]", "train.warmup = 5"]
    recipe = read_recipe(file, overrides, tmp_path / "elsewhere")
    assert recipe.data.folder == tmp_path / "elsewhere"
    assert (recipe.train.iterations, recipe.train.warmup, recipe.method.kind) == (50, 5, "head")
    assert recipe.train.augment.scale == (0.5, 2.0)


def test_all_problems_are_listed_with_the_nearest_known_key(file: Path) -> None:
    file.write_text(MINIMAL + "[train]\niteratons = 3\nbatch = 0\n[train.augment]\nflips = true\n[metod]\nkind = 'spm'")
    with pytest.raises(UsageError) as caught:
        read_recipe(file)
    message = str(caught.value)
    assert "4 problems" in message
    assert "train.iteratons: no such key; did you mean 'iterations'?" in message
    assert "train.augment.flips: no such key; did you mean 'flip'?" in message
    assert "metod: no such key; did you mean 'method'?" in message
    assert "train.batch: Input should be greater than 0" in message
    assert str(file) in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"kind": "smp"}}, "method.kind"),
        ({"method": {"prompts": ["stage1"], "widths": [8, 8]}}, "one for each boundary"),
        ({"method": {"prompts": []}}, "at least one boundary"),
        ({"train": {"iterations": 10, "warmup": 10}}, "must be shorter"),
        ({"train": {"augment": {"scale": [1.2, 0.8]}}}, "smallest, largest"),
        ({"train": {"cache": 0}}, "number of variants"),
        ({"task": {"name": "../water"}}, "task.name"),
        ({"backbone": {"name": "lite0", "size": [224]}}, "backbone.size: too few values, number 2 is missing"),
        ({"data": {"folder": "water", "resize": "keep-ratio"}}, "cannot be carried by a task"),
        (
            {"data": {"folder": "water", "resize": "letterbox"}, "train": {"augment": {"crop": True}}},
            "leaves train.augment.crop no windows",
        ),
        ({"data": {"folder": "water", "resize": "letterbox"}, "evaluate": {"mode": "slide"}}, "no windows to cut"),
        ({"head": {"kind": "ppm"}, "train": {"batch": 1, "accumulate": 4}}, "over two frames at least"),
    ],
)
def test_choices_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    stated = {"task": {"name": "water"}, "backbone": {"name": "lite0"}, "data": {"folder": "water"}} | changes
    with pytest.raises(UsageError, match=message):
        parse_recipe(stated)


def test_a_file_that_is_missing_or_no_toml_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[task")
    with pytest.raises(UsageError, match="not TOML"):
        read_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize("override", ["iterations=3", "train.iterations", "=3", "task.name.first=x"])
def test_an_override_of_another_form_is_refused(file: Path, override: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        read_recipe(file, [override])


def test_the_digest_knows_what_decides_the_result(file: Path, tmp_path: Path) -> None:
    base = read_recipe(file).digest()
    assert read_recipe(file, ["train.workers=2"]).digest() == base
    assert read_recipe(file, ["train.seed=1"]).digest() != base


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid_and_portable(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.portable()["data"]["folder"] == recipe.data.folder.name
