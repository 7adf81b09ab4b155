"""Memory images for a hardware team: weights, biases, shifts and tables, and vectors for each layer.

``program.json`` describes every step; ``memory.npz`` holds the constant arrays by the names it uses;
``vectors/NNN_<step>.npz`` holds one step's stored inputs and output for the given images. Nothing is pickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stagekit_fixedpoint.arithmetic import Ints
from stagekit_fixedpoint.files import pack_arrays, to_json
from stagekit_fixedpoint.program import Program


def export(program: Program, folder: Path, values: Mapping[str, Ints] | None = None) -> list[Path]:
    """Writes the images into a folder; returns the files.

    Args:
        values: of every tensor, by name, for some images; without them no vectors are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "program.json", folder / "memory.npz"]
    files[0].write_text(to_json(program), encoding="utf-8")
    files[1].write_bytes(pack_arrays(program.arrays))
    if values is None:
        return files
    (folder / "vectors").mkdir(exist_ok=True)
    for index, step in enumerate(program.steps):
        path = folder / "vectors" / f"{index:03}_{re.sub(r'[^A-Za-z0-9_.-]', '_', step.name)}.npz"
        arrays = {f"input{i}": np.asarray(values[n]) for i, n in enumerate(step.inputs)}
        path.write_bytes(pack_arrays({**arrays, "output": np.asarray(values[step.output])}))
        files.append(path)
    return files
