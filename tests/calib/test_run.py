"""Calibration runs: what a record covers, and that it comes out the same however it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_calib.chain import OrtGraph, execute, open_chain
from stagekit_calib.observers import Observer
from stagekit_calib.readers import Images, from_iterable, from_path
from stagekit_calib.run import calibrate, extend

from stagekit.errors import BundleError, DatasetError, GraphError, ImageError, UsageError
from stagekit.quant.record import Calibration, load
from stagekit.quant.statistics import observe

from .conftest import picture


def same(one: Calibration, other: Calibration) -> bool:
    """Whether two records hold the same statistics."""
    return one.statistics.keys() == other.statistics.keys() and all(
        np.array_equal(s.counts, other.statistics[h].counts)
        and (s.minimum, s.maximum, s.exponent, s.frames)
        == (other.statistics[h].minimum, other.statistics[h].maximum, other.statistics[h].exponent, s.frames)
        for h, s in one.statistics.items()
    )


def test_statistics_are_those_of_the_tensors_themselves(zoo: Any, pictures: Path) -> None:
    """Against ONNX Runtime run by hand over the uncut order of graphs."""
    chain = open_chain(zoo.stages)
    record = calibrate(chain, from_path(pictures), "minmax")
    values = []
    for _, image in from_path(pictures):
        x = chain.geometry("").apply(image)[0][None]
        values.append(OrtGraph(chain.graphs["stem"]).run([x])[0][0])
    (stem,) = [
        h for h, place in record.places.items() if place == ("stem", chain.manifest.stages[0].boundary.spec.name)
    ]
    whole = observe(np.concatenate(values), 1)
    assert np.array_equal(record.statistics[stem].counts, whole.counts)
    assert record.statistics[stem].maximum == whole.maximum
    assert record.statistics[stem].frames == len(values)


def test_a_prompted_boundary_covers_what_the_stage_gives_and_what_the_adapter_makes_of_it(
    zoo: Any, pictures: Path
) -> None:
    plain = calibrate(open_chain(zoo.stages), from_path(pictures), "minmax")
    tuned = calibrate(open_chain(zoo.stages, [zoo.tasks["land"]]), from_path(pictures), "minmax")
    (stem,) = [h for h, place in plain.places.items() if place == ("stem", "stem")]
    assert tuned.statistics[stem].frames == 2 * plain.statistics[stem].frames
    assert not np.array_equal(tuned.statistics[stem].counts, 2 * plain.statistics[stem].counts)
    assert tuned.statistics[stem].maximum > plain.statistics[stem].maximum


def test_calls_that_tasks_share_are_made_and_counted_once(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["land"], zoo.tasks["line"]])
    observer, made = Observer(chain), []

    def run(call: Any, inputs: Any) -> Any:
        made.append(call.label)
        return observer.run(call, inputs)

    execute(chain, picture(0), "key", run)
    assert made.count("stem") == 1
    assert made.count("stage1") == 2  # one behind land's prompt, one without


def test_the_same_images_in_the_same_order_give_the_same_record(zoo: Any, pictures: Path) -> None:
    one = calibrate(open_chain(zoo.stages), from_path(pictures))
    other = calibrate(open_chain(zoo.stages), from_path(pictures))
    assert same(one, other)
    assert one.data == other.data
    turned = Images("x", 6, lambda: iter(list(from_path(pictures))[::-1]))
    backwards = calibrate(open_chain(zoo.stages), turned)
    assert same(one, backwards)
    assert backwards.data[0].digest != one.data[0].digest


def test_extending_is_what_one_run_over_everything_gives(zoo: Any) -> None:
    chain = open_chain(zoo.stages)
    images = [picture(i) for i in range(6)]
    whole = calibrate(chain, from_iterable(images))
    grown = extend(calibrate(chain, from_iterable(images[:4])), chain, from_iterable(images[4:]))
    assert same(whole, grown)
    assert [d.images for d in grown.data] == [4, 2]


def test_an_interrupted_run_goes_on_where_it_stopped(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagekit_calib.run.CHECKPOINT_EVERY", 2)
    images = [picture(i) for i in range(6)]
    chain, checkpoint = open_chain(zoo.stages), tmp_path / "x.calib.partial"

    def stop(done: int, total: int | None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(chain, from_iterable(images), checkpoint=checkpoint, advance=stop)
    shown: list[int] = []
    resumed = calibrate(
        chain, from_iterable(images), checkpoint=checkpoint, resume=True, advance=lambda done, total: shown.append(done)
    )
    assert shown == [5, 6]
    assert same(resumed, calibrate(chain, from_iterable(images)))
    assert not checkpoint.exists()


def test_resuming_over_other_images_is_refused(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagekit_calib.run.CHECKPOINT_EVERY", 2)
    chain, checkpoint = open_chain(zoo.stages), tmp_path / "x.calib.partial"

    def stop(done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(chain, from_iterable([picture(i) for i in range(4)]), checkpoint=checkpoint, advance=stop)
    others = from_iterable([picture(i) for i in range(9, 13)])
    with pytest.raises(BundleError, match="not those that the interrupted run saw"):
        calibrate(chain, others, checkpoint=checkpoint, resume=True)


def test_no_images_is_an_error(zoo: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found none"):
        calibrate(open_chain(zoo.stages), from_iterable([]))
    with pytest.raises(ImageError, match="found none"):
        from_path(tmp_path)


def test_equal_images_are_an_error(zoo: Any) -> None:
    with pytest.raises(DatasetError, match="all 3 images are equal"):
        calibrate(open_chain(zoo.stages), from_iterable([picture(0)] * 3))


def test_black_images_are_an_error(zoo: Any) -> None:
    with pytest.raises(DatasetError, match="single colour"):
        calibrate(open_chain(zoo.stages), from_iterable([np.zeros((40, 50, 3), np.uint8)] * 2))


def test_a_wrong_item_of_an_iterable_is_named(zoo: Any) -> None:
    with pytest.raises(DatasetError, match="item 1: expected uint8"):
        calibrate(open_chain(zoo.stages), from_iterable([picture(0), picture(1) / 255]))


def test_a_transform_makes_images_of_anything(zoo: Any) -> None:
    images = from_iterable([{"pixels": picture(i)} for i in range(3)], lambda item: item["pixels"])
    assert calibrate(open_chain(zoo.stages), images).data[0].images == 3


def test_nan_activations_are_named_with_their_image(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages)
    observer = Observer(chain)
    observer.image = "north.png"
    broken = np.full((1, 8, 16, 24), np.nan, np.float32)
    call = chain.programs[0].calls[1]
    with pytest.raises(GraphError, match=r"not finite on image 'north.png'"):
        observer.run(call, [broken])


def test_an_unknown_method_is_refused_before_any_image_is_read(zoo: Any) -> None:
    def never() -> Any:
        raise AssertionError("read an image")

    with pytest.raises(UsageError, match="did you mean 'entropy'"):
        calibrate(open_chain(zoo.stages), Images("x", 1, never), "entropi")


def test_the_function_of_the_package_writes_what_the_chain_gives(zoo: Any, pictures: Path, tmp_path: Path) -> None:
    import stagekit

    made = stagekit.calibrate(zoo.stages, [zoo.tasks["land"]], data=pictures, output=tmp_path / "a.calib", limit=4)
    by_hand = calibrate(open_chain(zoo.stages, [zoo.tasks["land"]]), from_path(pictures, limit=4))
    assert same(made, by_hand)
    assert same(load(tmp_path / "a.calib"), by_hand)
    images = [image for _, image in from_path(pictures)]
    grown = stagekit.calibrate(zoo.stages, data=images, output=tmp_path / "a.calib", extending=True)
    assert [d.images for d in grown.data] == [4, 6]
    with pytest.raises(UsageError, match="keeps its method"):
        stagekit.calibrate(zoo.stages, data=images, output=tmp_path / "a.calib", extending=True, method="mse")
