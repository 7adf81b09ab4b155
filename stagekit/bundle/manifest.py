"""The manifests of the three kinds of bundle, as validated data.

Unknown keys, missing keys and wrong types are errors; so is a schema number that this version does not know.
``stagekit inspect --schema`` prints the JSON schemas.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from stagekit.graph.spec import TensorSpec


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) or ".." in name:
        raise ValueError("must be a plain name of letters, digits, dots, dashes and underscores")
    return name


def plain_name(text: str) -> str:
    """A name that manifests accept, as near to ``text`` as can be: ``my model (2)`` gives ``my-model-2``."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    plain = re.sub(r"\.{2,}", ".", plain).strip("._-")[:128]
    return plain or "unnamed"


FileName = Annotated[str, AfterValidator(_plain_name)]
"""A file inside the bundle's own folder: never a path that could leave it."""

Name = Annotated[str, AfterValidator(_plain_name)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Byte = Annotated[int, Field(ge=0, le=255)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Pixels = Annotated[int, Field(gt=0, lt=2**31)]


class Record(BaseModel):
    """Immutable, and strict about what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Boundary(Record):
    """What crosses between two segments.

    Attributes:
        name: ``stem``, ``stage1``, ``unit8``, or the tensor's name for a foreign model.
        tensors: in the order in which the next stage takes them.
        feature: index of the one that an SPM prompts.
        grid: the feature's (h, w).
        prefix: leading tokens that are not grid cells; ``None`` for feature maps.
    """

    name: str
    tensors: tuple[TensorSpec, ...] = Field(min_length=1)
    feature: int = 0
    grid: tuple[int, int] | None = None
    prefix: int | None = None

    @model_validator(mode="after")
    def _feature_exists(self) -> Boundary:
        if not 0 <= self.feature < len(self.tensors):
            raise ValueError(f"feature {self.feature} is not one of {len(self.tensors)} tensors")
        return self

    @property
    def spec(self) -> TensorSpec:
        """The feature's spec."""
        return self.tensors[self.feature]

    @property
    def channels(self) -> int:
        """The feature's width.

        Raises:
            ValueError: the feature is neither a map (batch, channels, h, w) nor tokens (batch, tokens, channels).
        """
        axis = {"NCHW": 1, "NTC": 2}.get(self.spec.layout)
        if axis is None or not isinstance(self.spec.shape[axis], int):
            raise ValueError(f"boundary {self.name!r} has no channel axis: {self.spec}")
        return int(self.spec.shape[axis])


class Frame(Record):
    """What the first stage takes, and how an image becomes it."""

    spec: TensorSpec
    height: Pixels
    width: Pixels
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"
    fill: Byte = 0


class GraphEntry(Record):
    """One graph file with what is known about it; MACs are for one image."""

    graph: FileName
    fingerprint: Digest
    macs: Count
    parameters: Count


class StageEntry(GraphEntry):
    """A frozen segment and the boundary at its end."""

    name: Name
    boundary: Boundary


class BackboneFacts(Record):
    """What a backbone is, whatever its exporter or input size.

    Attributes:
        id: hash over architecture and revision, weights, all cut points and preprocessing; for a foreign
            model over the ONNX file's fingerprint and its cuts.
        architecture: name and options for a built-in one, ``{"onnx": fingerprint}`` for a foreign one.
        weights: where they came from, for people.
    """

    id: Digest
    architecture: dict[str, str | int]
    weights: str
    preprocessing: dict[str, tuple[float, float, float]] | None = None


class Manifest(Record):
    """What all manifests share."""

    schema_: Literal[1] = Field(1, alias="schema")
    name: Name
    tools: dict[str, str] = {}


class StagesManifest(Manifest):
    """``X.stages``: a frozen backbone cut into graphs over one weight file."""

    kind: Literal["stages"] = "stages"
    backbone: BackboneFacts
    frame: Frame
    stages: tuple[StageEntry, ...] = Field(min_length=1)
    uncut: GraphEntry
    weight_file: FileName
    export_error: float | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> StagesManifest:
        for what, names in (
            ("stages", [s.name for s in self.stages]),
            ("boundaries", [s.boundary.name for s in self.stages]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"two {what} have one name: {', '.join(names)}")
        return self


class ClassEntry(Record):
    """A class and its colour in label maps."""

    name: str
    color: tuple[Byte, Byte, Byte]


class PromptEntry(GraphEntry):
    """An SPM and the boundary that it prompts."""

    boundary: str


class HeadEntry(GraphEntry):
    """The head and the boundaries that it reads, in the order of its inputs."""

    reads: tuple[str, ...] = Field(min_length=1)


class Metric(Record):
    """A measured figure with the data that it was measured on."""

    name: str
    value: float
    data: str
    split: str
    images: Count
    per_class: dict[str, float | None] = {}


class ThroughEntry(Record):
    """The integer stages that a task was tuned through: it runs on these, and is refused on others.

    Attributes:
        record: the calibration record's name, for people.
        stages: by the profile's name, for each stage that the task runs the fingerprint of its Q/DQ graph.
    """

    record: str
    stages: dict[str, dict[str, Digest]] = Field(min_length=1)


class TaskManifest(Manifest):
    """``X.task``: what a segmentation task adds to a frozen backbone.

    Attributes:
        through: what it is bound to beside the backbone, where it was tuned through integer stages.
    """

    kind: Literal["task"] = "task"
    backbone: Digest
    classes: tuple[ClassEntry, ...] = Field(min_length=1, max_length=255)
    prior: tuple[float, ...]
    prompts: tuple[PromptEntry, ...] = ()
    head: HeadEntry
    resize: Literal["stretch", "letterbox", "crop"] | None = None
    weight_file: FileName
    metrics: tuple[Metric, ...] = ()
    through: ThroughEntry | None = None
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _prior_fits(self) -> TaskManifest:
        if len(self.prior) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes need as many priors, found {len(self.prior)}")
        return self


class EngineEntry(Record):
    """An engine inside a deployment; its files lie under ``engines/<digest>``."""

    digest: Digest
    bytes: Count


class PlannedForm(Record):
    """A form in which a boundary's tensors may cross, and what it was measured to cost.

    Attributes:
        tensors: element type and order of axes as stored.
        milliseconds: of the two neighbouring stages one after the other, the median; ``None`` where nothing
            was to be measured.
    """

    tensors: tuple[TensorSpec, ...]
    milliseconds: float | None = None


class PlannedBoundary(Record):
    """The form chosen for a boundary, and all that were tried."""

    boundary: str
    chosen: tuple[TensorSpec, ...]
    tried: tuple[PlannedForm, ...] = ()


class FusedRun(Record):
    """Neighbouring stages as one engine, for when no task needs what lies between them."""

    first: str
    last: str
    engine: Digest


class Placement(Record):
    """A second device, which runs SPMs and heads; the fields are as the deployment's own."""

    target: str
    profile: dict[str, Any]
    toolchain: str
    device: str


class DeployedStage(Record):
    """A frozen stage.

    Attributes:
        boundary: in the form that the stage's graph has it.
        stored: the form in which engines hand it on, where that is another.
    """

    name: Name
    engine: Digest
    boundary: Boundary
    stored: tuple[TensorSpec, ...] = ()


class DeployedPrompt(Record):
    boundary: str
    engine: Digest


class DeployedTask(Record):
    """A task as it runs: engines and what is needed to write its results."""

    name: Name
    classes: tuple[ClassEntry, ...]
    resize: Literal["stretch", "letterbox", "crop"]
    prompts: tuple[DeployedPrompt, ...]
    head: Digest
    reads: tuple[str, ...]
    output: Literal["labels", "logits"]
    metrics: tuple[Metric, ...] = ()


class DeployManifest(Manifest):
    """``X.deploy``: engines, plan and tasks for one target; ``run`` needs nothing else."""

    kind: Literal["deploy"] = "deploy"
    target: str
    profile: dict[str, Any]
    toolchain: str
    device: str
    backbone: Digest
    frame: Frame
    stages: tuple[DeployedStage, ...]
    tasks: tuple[DeployedTask, ...]
    engines: tuple[EngineEntry, ...]
    plan: tuple[PlannedBoundary, ...] = ()
    fused: tuple[FusedRun, ...] = ()
    adapters: Placement | None = None
