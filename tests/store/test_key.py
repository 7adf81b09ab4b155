"""A key changes with each of its parts and with nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagekit.graph.spec import Quantization, TensorSpec
from stagekit.store import EngineKey

SPEC = TensorSpec("x", "uint8", ("batch", 3), "NC", Quantization((0.5,), (3,)))
KEY = EngineKey("0a", (SPEC,), (SPEC.renamed("y"),), "fake", "0b", "fake 1", "CPU")

specs = st.builds(
    TensorSpec,
    st.text(max_size=3),
    st.sampled_from(["float32", "int8"]),
    st.lists(st.one_of(st.integers(1, 9), st.just("batch")), max_size=3).map(tuple),
)
keys = st.builds(
    EngineKey,
    *[st.text(max_size=3), *[st.lists(specs, max_size=2).map(tuple)] * 2, *[st.text(max_size=3)] * 4],
)

CHANGED: dict[str, list[Any]] = {
    "graph": ["0c"],
    "inputs": [
        (),
        (SPEC, SPEC),
        (replace(SPEC, name="z"),),
        (replace(SPEC, dtype="int8"),),
        (replace(SPEC, shape=(1, 3)),),
        (replace(SPEC, layout="NT"),),
        (replace(SPEC, quantization=None),),
        (replace(SPEC, quantization=Quantization((0.25,), (3,))),),
        (replace(SPEC, quantization=Quantization((0.5,), (4,))),),
        (replace(SPEC, quantization=Quantization((0.5,), (3,), 1)),),
    ],
    "outputs": [(SPEC,)],
    "target": ["other"],
    "profile": ["0c"],
    "toolchain": ["fake 2"],
    "device": ["GPU"],
}


def test_every_part_has_a_change_below() -> None:
    assert {field.name for field in fields(EngineKey)} == set(CHANGED)


@pytest.mark.parametrize(("part", "value"), [(part, value) for part, values in CHANGED.items() for value in values])
def test_a_changed_part_is_a_new_engine(part: str, value: Any) -> None:
    assert replace(KEY, **{part: value}).digest != KEY.digest


def test_the_digest_is_the_hash_of_the_parts_written_out_by_hand() -> None:
    quantization = '{"axis":null,"scale":[0.5],"zero_point":[3]}'
    x = f'{{"dtype":"uint8","layout":"NC","name":"x","quantization":{quantization},"shape":["batch",3]}}'
    y = x.replace('"x"', '"y"')
    text = (
        f'{{"device":"CPU","graph":"0a","inputs":[{x}],"outputs":[{y}],'
        '"profile":"0b","revision":1,"target":"fake","toolchain":"fake 1"}'
    )
    assert KEY.digest == hashlib.sha256(text.encode()).hexdigest()


@given(keys)
def test_a_key_survives_json(key: EngineKey) -> None:
    again = EngineKey.from_dict(json.loads(json.dumps(key.to_dict())))
    assert again == key
    assert again.digest == key.digest


@given(keys, keys)
def test_digests_agree_exactly_where_keys_do(one: EngineKey, other: EngineKey) -> None:
    assert (one.digest == other.digest) == (one == other)
