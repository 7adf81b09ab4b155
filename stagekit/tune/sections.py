"""The sections of a recipe: what every key means, and what it may be."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stagekit.bundle.manifest import Name
from stagekit.data.geometry import Resize
from stagekit.models.pdc import PDCMode
from stagekit.models.spm import Activation, Norm, Prompt

Kind = Literal["spm", "head", "full", "scratch"]


class Section(BaseModel):
    """Immutable, and strict about keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSection(Section):
    """``[task]``: the name that the bundle carries."""

    name: Name


class BackboneSection(Section):
    """``[backbone]``: a registered architecture with its weights, or stages that were cut before.

    Attributes:
        name: of the architecture, or an alias.
        stages: instead, a ``.stages`` folder, of any ONNX model too; it says all that the other keys would.
        weights: a file, or ``packaged`` for those that an installed package carries. Unused by ``scratch``.
        size: frame (height, width) in pixels; the architecture's own by default.
        output_stride: input pixels per cell of the last feature; the architecture's own by default.
        cuts: boundaries besides those that are always there; the architecture's own choice by default.
    """

    name: str | None = None
    stages: Path | None = None
    weights: Literal["packaged"] | Path = "packaged"
    size: tuple[int, int] | None = None
    output_stride: int | None = None
    cuts: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_backbone(self) -> BackboneSection:
        if (self.name is None) == (self.stages is None):
            raise ValueError('give either the name of an architecture or stages = "X.stages"')
        surplus = sorted(self.model_fields_set - {"stages", "name"})
        if self.stages is not None and surplus:
            raise ValueError(f"stages that are cut already leave no choice of {', '.join(surplus)}")
        return self


class DataSection(Section):
    """``[data]``: a data set, and which split is for what.

    Attributes:
        folder: of the data set.
        kind: how it is laid out: ``folder`` as :mod:`stagekit.data.folder` says, or as docs/datasets.md says.
        train: learned from.
        val: chooses the best checkpoint; empty for none (the last one is kept).
        test: scored once, at the end; empty for none.
        resize: how an image becomes a frame, in training, in scores and wherever the task runs: ``stretch``,
            ``letterbox`` (its aspect ratio kept, black around it) or ``crop`` (its short side fitted, the long one
            cut). Windows (``train.augment.crop``, ``evaluate.mode``) are cut from the image at its own resolution
            with ``stretch``, and from one scaled until it covers a frame with ``crop``.
        note: about scenes and labels, for the manifest.
    """

    folder: Path
    kind: str = "folder"
    train: str = "train"
    val: str = "val"
    test: str = "test"
    resize: Resize = "stretch"
    note: str = ""

    @field_validator("resize", mode="before")
    @classmethod
    def _one_that_a_bundle_carries(cls, resize: object) -> object:
        if resize not in get_args(Resize):
            raise ValueError(
                f"frames have one size, so {resize!r} cannot be carried by a task: 'letterbox' keeps the aspect ratio "
                "by padding, 'crop' fits the short side, 'stretch' does neither"
            )
        return resize


class MethodSection(Section):
    """``[method]``: what learns.

    Attributes:
        kind: ``spm`` tunes SPMs and head, ``head`` the head alone; ``full`` and ``scratch`` the backbone too, from
            its weights or from random ones.
        prompts: boundaries that carry an SPM, or ``all`` up to the last that the head reads; of ``spm`` alone.
        preset: of the inner widths c_hat.
        widths: c_hat for each prompt, instead of a preset.
        pdc: ``single`` replaces each pyramid by one 3x3 convolution (ablation).
        dilations: rates of the pyramid.
        interim_weight: a_i of the loss; 0 leaves the semantic maps without guidance (ablation).
        prompt: multiplicative P = F * W, or additive P = W.
        norm, activation: inside the SPMs.
    """

    kind: Kind = "spm"
    prompts: Literal["all"] | tuple[str, ...] = "all"
    preset: str = "small"
    widths: tuple[int, ...] | None = None
    pdc: PDCMode = "pyramid"
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    interim_weight: float = Field(0.4, ge=0)
    prompt: Prompt = "multiplicative"
    norm: Norm = "none"
    activation: Activation = "none"

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is."""
        return self.kind in ("spm", "head")

    @model_validator(mode="after")
    def _one_width_each(self) -> MethodSection:
        if self.kind == "spm" and not self.prompts:
            raise ValueError("method 'spm' prompts at least one boundary; for none, use kind = \"head\"")
        if self.widths is not None and (self.prompts == "all" or len(self.widths) != len(self.prompts)):
            raise ValueError("widths are given one for each boundary named in prompts")
        return self


class HeadSection(Section):
    """``[head]``: what gives the labels.

    Attributes:
        kind: one of :data:`stagekit.models.heads.HEADS`.
        reads: boundaries; by default the last.
        width: of its convolutions; its own default if left out.
        auxiliary: units inside stages with SETR-PUP's auxiliary heads on them, in training only; never exported.
    """

    kind: str = "light"
    reads: tuple[str, ...] = ()
    width: int | None = Field(None, gt=0)
    auxiliary: tuple[str, ...] = ()


class AugmentSection(Section):
    """``[train.augment]``: random changes of a frame and its labels; the defaults change nothing.

    Attributes:
        flip: mirror left to right, half the time.
        flip_vertical: mirror top to bottom, half the time; for scenes without an up.
        rotate: largest angle in radians, either way.
        scale: smallest and largest factor of size.
        brightness: largest relative change of brightness; each channel gets the same.
        crop: cut windows from the image, at the resolution that ``data.resize`` says; otherwise the image becomes
            a frame first.
    """

    flip: bool = False
    flip_vertical: bool = False
    rotate: float = Field(0.0, ge=0)
    scale: tuple[float, float] = (1.0, 1.0)
    brightness: float = Field(0.0, ge=0, lt=1)
    crop: bool = False

    @property
    def random(self) -> bool:
        """Whether two draws from one image may differ."""
        return bool(self.model_dump() != AugmentSection().model_dump())

    @model_validator(mode="after")
    def _a_range(self) -> AugmentSection:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale is [smallest, largest], both above 0")
        return self


class TrainSection(Section):
    """``[train]``: the loop.

    Attributes:
        iterations: optimizer steps.
        minutes: of learning and scoring at most; the step that exceeds them is the last, whatever the schedule. No
            limit if left out.
        batch: frames in one pass.
        accumulate: passes whose gradients one step averages.
        lr_head, lr_spm, lr_backbone: peak learning rates of the parts that learn.
        layer_decay: what each unit's rate is of the rate of the one behind it; the backbone's last learns at
            ``lr_backbone``. 0.65 to 0.9 is usual for transformers; of ``full`` and ``scratch`` alone.
        weight_decay: on weights, not on biases or normalisation.
        momentum: of ``sgd``.
        warmup: steps of linear rise, before the poly decay of exponent ``power``.
        seed: of initialisation, order, augmentation and dropout.
        precision: ``bf16`` is autocast, weights stay float32; ``auto`` takes it where the device computes it itself.
        class_weights: one for each class, or ``balanced`` for 1 / sqrt(frequency) scaled to a mean of 1.
        eval_every: steps between scores on ``val`` (and checkpoints); the end always has one.
        cache: ``auto`` caches features before the first prompt while no augmentation changes them; a number
            precomputes so many augmented variants of every image and caches theirs; ``off`` neither.
        cache_megabytes: what the cache may take in memory.
        workers: processes that load and augment, no more than there are cores.
        device: ``auto`` takes CUDA where there is one.
    """

    iterations: int = Field(300, gt=0)
    minutes: float | None = Field(None, gt=0)
    batch: int = Field(8, gt=0)
    accumulate: int = Field(1, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr_head: float = Field(1e-2, gt=0)
    lr_spm: float = Field(2e-3, gt=0)
    lr_backbone: float = Field(3e-4, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    warmup: int = Field(20, ge=0)
    power: float = Field(0.9, ge=0)
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "bf16", "f32"] = "auto"
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    eval_every: int = Field(50, gt=0)
    cache: Literal["auto", "off"] | int = "auto"
    cache_megabytes: int = Field(1024, gt=0)
    workers: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    augment: AugmentSection = AugmentSection()

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> TrainSection:
        if self.warmup >= self.iterations and self.warmup:
            raise ValueError(f"warmup ({self.warmup}) must be shorter than iterations ({self.iterations})")
        if isinstance(self.cache, int) and self.cache < 1:
            raise ValueError("cache is 'auto', 'off' or the number of variants, at least 1")
        return self


class ThroughSection(Section):
    """``[through]``: the frozen stages in integers, as a calibration record makes them; method ``spm`` or ``head``.

    Attributes:
        record: the ``X.calib`` folder; none tunes in floats, with nothing of this section.
        stages: the ``X.stages`` folder that the record was made on; exported anew if left out.
        profiles: int8 profiles whose stages the task shall run on; the first is simulated. They may differ in
            nothing but how biases are stored.
        simulate: compute the stages in simulated integers; otherwise in floats, and the ranges are only a bound.
        bound: weight of the penalty on values of frozen tensors outside the record's ranges.
    """

    record: Path | None = None
    stages: Path | None = None
    profiles: tuple[str, ...] = Field(("ort-int8", "ov-int8"), min_length=1)
    simulate: bool = True
    bound: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _does_something(self) -> ThroughSection:
        if not self.simulate and not self.bound:
            raise ValueError("with simulate = false, bound must be above 0: nothing would change otherwise")
        return self


class EvaluateSection(Section):
    """``[evaluate]``: how an image is predicted.

    Attributes:
        mode: ``whole`` predicts one frame, as a deployment does; ``slide`` moves a window of the frame's size over
            the image, at the resolution that ``data.resize`` says.
        stride: (vertical, horizontal) steps of the window in pixels; two thirds of the frame by default.
    """

    mode: Literal["whole", "slide"] = "whole"
    stride: tuple[int, int] | None = None
