"""What integers cost, where they hurt, and what a task that nobody calibrated for does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_calib.accuracy import evaluate
from stagekit_calib.audit import audit, saturation
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_iterable, from_path
from stagekit_calib.run import calibrate
from stagekit_calib.sensitivity import LayerDamage, rank_layers, smallest_float_set, with_kept

from stagekit.data.folder import Folder
from stagekit.errors import DatasetError
from stagekit.quant.formats import NumberFormat
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import quantise_stages

SCHEME = QuantScheme(NumberFormat("uint8", symmetric=False), bias="int32")


def test_integers_lose_little_and_coarse_ranges_lose_much(zoo: Any, labelled: Folder) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    record = calibrate(chain, from_path(labelled.root), "minmax")
    stems = labelled.stems("val")
    exact = evaluate(chain, labelled, stems)["land"]
    integers = evaluate(chain.quantised(quantise_stages(chain.stages, record, SCHEME)), labelled, stems)["land"]
    narrow = replace(record, method="percentile:60")
    cut = evaluate(chain.quantised(quantise_stages(chain.stages, narrow, SCHEME)), labelled, stems)["land"]
    assert exact == 1.0
    assert 0.9 < integers <= 1.0
    assert cut < integers - 0.1


def test_a_data_set_with_other_classes_is_refused(zoo: Any, labelled: Folder) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["sea"]])
    with pytest.raises(DatasetError, match="not those of the task 'sea'"):
        evaluate(chain, labelled, labelled.stems("val"))


def test_an_audit_finds_what_a_new_task_pushes_out_of_range(zoo: Any, pictures: Path) -> None:
    dim = from_iterable([image // 3 + 85 for _, image in from_path(pictures)])
    plain = calibrate(open_chain(zoo.stages), dim, "minmax")
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    record, tensors = audit(plain, chain, from_path(pictures), SCHEME)
    finding = record.audits[0]
    assert finding.worst == tensors[0].share > 0.01
    assert finding.drop is None
    prompted = next(t for t in tensors if t.tensor == "stem")
    seen = calibrate(chain, from_path(pictures), "minmax")
    (hashed,) = [h for h, place in seen.places.items() if place == ("stem", "stem")]
    known = plain.statistics[hashed]
    assert prompted.share == pytest.approx(seen.statistics[hashed].share_outside(0, known.maximum), abs=0.01)


def test_a_record_never_saturates_on_its_own_extremes(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    record = calibrate(chain, from_path(pictures), "minmax")
    assert all(s.share == 0 for s in saturation(record, record, SCHEME, chain.stages))


def test_an_audit_looks_at_what_the_format_stores_alone(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    record = calibrate(chain, from_path(pictures), "minmax")
    looked_at = {s.stage for s in saturation(record, record, SCHEME, chain.stages)}
    assert looked_at == {"stem", "stage1", "stage2"}
    kept = saturation(replace(record, keep_float=("*",)), record, SCHEME, chain.stages)
    assert kept == []


def test_layers_are_ranked_by_the_damage_that_each_does_alone(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages)
    record = calibrate(chain, from_path(pictures), "minmax")
    # Ranges a hundred times too wide for what one layer reads: it must come first.
    target = next(h for h, place in record.places.items() if place[0] == "stage2" and place[1] != "stage2")
    s = record.statistics[target]
    spoilt = replace(s, minimum=100 * s.minimum, maximum=100 * s.maximum)
    record = replace(record, statistics={**record.statistics, target: spoilt})
    ranked = rank_layers(chain, record, SCHEME, from_path(pictures), count=2)
    assert len(ranked) == 4
    assert ranked[0].node.startswith("stage2/")
    assert ranked[0].decibels < ranked[1].decibels - 10
    assert sum(d.macs for d in ranked) == sum(s.macs for s in chain.manifest.stages)


def test_the_smallest_float_set_is_found_and_every_trial_kept() -> None:
    ranked = [LayerDamage(f"s/n{i}", "Conv", 1, float(i)) for i in range(20)]
    kept, trials = smallest_float_set(ranked, lambda k: 3.0 - 0.25 * len(k), limit=0.5)
    assert kept == tuple(f"s/n{i}" for i in range(10))
    assert [len(t.keep_float) for t in trials] == [0, 1, 2, 4, 8, 16, 12, 10, 9]
    assert all(t.drop == 3.0 - 0.25 * len(t.keep_float) for t in trials)
    assert smallest_float_set(ranked, lambda k: 0.1, limit=0.5)[0] == ()


def test_layers_kept_in_floats_leave_the_integers(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages)
    record = calibrate(chain, from_path(pictures))
    everything = quantise_stages(chain.stages, record, SCHEME)
    without = quantise_stages(chain.stages, with_kept(record, ["stage1/*"]), SCHEME)
    assert everything.integer_share == 1
    assert without.integer_share == pytest.approx(
        1 - chain.manifest.stages[1].macs / sum(s.macs for s in chain.manifest.stages)
    )
    assert set(everything.edges) - set(without.edges) == {"stage1"}
    assert np.isclose(everything.edges["stem"][1].scale[0], without.edges["stem"][1].scale[0])
