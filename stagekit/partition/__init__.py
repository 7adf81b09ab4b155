"""A model to stem and frozen stage graphs; a tuned task to adapter and head graphs.

The package can be called: ``stagekit.partition("resnet50", "resnet50.stages", weights="w.safetensors")``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stagekit.bundle import StagesManifest


class _CallablePackage(ModuleType):
    """Lets the verb be the same word in Python as on the command line."""

    def __call__(
        self,
        model: str | PathLike[str],
        output: str | PathLike[str],
        *,
        weights: str | PathLike[str] | None = None,
        size: tuple[int, int] | None = None,
        output_stride: int | None = None,
        cuts: Sequence[str] | None = None,
        at: Sequence[Sequence[str]] = (),
        stages: int | None = None,
        until: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> StagesManifest:
        """Cuts a built-in backbone by name, or an ONNX file, into a ``.stages`` folder.

        Args:
            weights, output_stride, cuts: of a built-in backbone, see :func:`partition_backbone`.
            at, stages, until: of an ONNX file, see :func:`partition_onnx`.
            mean, std: of an ONNX file, R, G and B in units of 0..255; put in front of it, so that it takes images.
            size: (height, width) in pixels.
        """
        from stagekit.partition.foreign import partition_onnx
        from stagekit.partition.from_onnx import normalisation
        from stagekit.partition.partition import partition_backbone

        name = str(model)
        if name.endswith(".onnx"):
            before = normalisation(mean, std)
            return partition_onnx(
                Path(name), Path(output), at=at, stages=stages, until=until, size=size, normalisation=before
            )
        path = None if weights is None else Path(weights)
        return partition_backbone(name, Path(output), weights=path, size=size, output_stride=output_stride, cuts=cuts)


sys.modules[__name__].__class__ = _CallablePackage
