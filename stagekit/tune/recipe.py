"""What to learn, as TOML: every choice of a tuning run, validated before anything is read or computed.

Paths in a recipe are relative to its file. ``examples/`` holds complete ones.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import model_validator

from stagekit.tune.sections import (
    BackboneSection,
    DataSection,
    EvaluateSection,
    HeadSection,
    MethodSection,
    Section,
    TaskSection,
    ThroughSection,
    TrainSection,
)


class Recipe(Section):
    """A whole recipe."""

    task: TaskSection
    backbone: BackboneSection
    data: DataSection
    method: MethodSection = MethodSection()
    head: HeadSection = HeadSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    through: ThroughSection = ThroughSection()

    @model_validator(mode="after")
    def _stages_stay_frozen(self) -> Recipe:
        if self.backbone.stages is not None and not self.method.frozen:
            raise ValueError(
                "backbone.stages: stages stay as they are; use method spm or head, or name an architecture"
            )
        return self

    @model_validator(mode="after")
    def _through_frozen_stages(self) -> Recipe:
        if self.through.record is not None and not self.method.frozen:
            raise ValueError("through.record: a backbone that learns has no calibrated stages; use method spm or head")
        return self

    @model_validator(mode="after")
    def _windows_of_more_than_a_frame(self) -> Recipe:
        windows = [
            name
            for name, used in (
                ("train.augment.crop", self.train.augment.crop),
                ("evaluate.mode = 'slide'", self.evaluate.mode == "slide"),
            )
            if used
        ]
        if self.data.resize == "letterbox" and windows:
            raise ValueError(
                f"data.resize: a letterbox shows the whole image in one frame, which leaves {' and '.join(windows)} "
                "no windows to cut; use 'crop' (short side fitted) or 'stretch' (own resolution)"
            )
        return self

    @model_validator(mode="after")
    def _batches_that_can_be_normalised(self) -> Recipe:
        if self.head.kind == "ppm" and self.train.batch == 1:
            raise ValueError(
                "train.batch: the head ppm normalises maps pooled to a single pixel, over two frames at least; "
                "use a batch of 2 (train.accumulate does not help)"
            )
        return self

    def portable(self) -> dict[str, Any]:
        """All choices as JSON, with files by name alone: what a manifest may say."""
        stated = self.model_dump(mode="json")
        stated["data"]["folder"] = self.data.folder.name
        if self.backbone.stages is None:
            stated["backbone"]["weights"] = Path(self.backbone.weights).name
            del stated["backbone"]["stages"]
        else:
            stated["backbone"] = {"stages": self.backbone.stages.name}
        if self.through.record is None:
            del stated["through"]
        else:
            stated["through"]["record"] = self.through.record.name
            stated["through"]["stages"] = self.through.stages.name if self.through.stages else None
        return stated

    def digest(self) -> str:
        """SHA-256 (hex) of what decides the result; a run that time ended goes on when it is given more."""
        stated = self.portable()
        for harmless in ("workers", "cache_megabytes", "minutes"):
            del stated["train"][harmless]
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
