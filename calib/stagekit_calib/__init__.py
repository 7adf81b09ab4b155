"""Calibrating frozen stages: readers, observers, runs, audits, sensitivity.

::

    chain = open_chain(Path("lite0.stages"), [Path("landcover.task")])
    record = calibrate(chain, from_path(Path("tiles/")), "percentile:99.9")
    stagekit.quant.record.save(record, Path("lite0.calib"))
"""

from stagekit_calib.audit import audit
from stagekit_calib.chain import Chain, open_chain
from stagekit_calib.readers import Images, from_iterable, from_path
from stagekit_calib.run import calibrate, extend
from stagekit_calib.sensitivity import rank_layers, smallest_float_set

__all__ = [
    "Chain",
    "Images",
    "audit",
    "calibrate",
    "extend",
    "from_iterable",
    "from_path",
    "open_chain",
    "rank_layers",
    "smallest_float_set",
]
