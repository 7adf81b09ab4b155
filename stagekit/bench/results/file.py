"""One file of results: written whole, read with its schema checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from stagekit.bench.results.circumstances import DeployFacts, DeviceFacts, Memory, Noise, Roof
from stagekit.bench.results.figures import ScenarioResult
from stagekit.bench.results.tasks import Accuracy, BaselineRow, Picture, ScalingRow
from stagekit.bundle.manifest import Record
from stagekit.errors import ArtefactError
from stagekit.whole import write_whole

SCHEMA = 1


class ResultError(ArtefactError):
    """A file of results is damaged, or of a schema that this version does not read."""


class Result(Record):
    """Everything that ``stagekit bench`` found out about one deployment."""

    schema_: Literal[1] = Field(1, alias="schema")
    kind: Literal["bench"] = "bench"
    status: Literal["complete", "partial"] = "complete"
    problems: tuple[str, ...] = ()
    started: str
    command: tuple[str, ...] = ()
    commit: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    device: DeviceFacts
    deployment: DeployFacts
    mix: tuple[str, ...] = ()
    noise: Noise | None = None
    memory: Memory | None = None
    scenarios: tuple[ScenarioResult, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    pictures: tuple[Picture, ...] = ()
    baseline: tuple[BaselineRow, ...] = ()
    scaling: tuple[ScalingRow, ...] = ()
    roof: Roof | None = None

    @property
    def device_name(self) -> str:
        """The device that figures are of: the one that is emulated, else the accelerator or processor."""
        if self.deployment.emulates:
            return self.deployment.emulates.removeprefix("modelled for ")
        return self.device.accelerator or self.device.cpu

    def scenario(self, name: str, reuse: bool = True) -> ScenarioResult | None:
        """The scenario of that name, or none."""
        return next((s for s in self.scenarios if s.scenario == name and s.reuse == reuse), None)


def write(result: Result, path: Path) -> None:
    """Writes the results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (result.model_dump_json(by_alias=True, indent=1) + "\n").encode())


def read(path: Path) -> Result:
    """Results from a file.

    Raises:
        ResultError: no such file, no JSON, not results, of another schema, or damaged.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"the results cannot be read: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"this is not JSON: {error}", where=path) from error
    if not isinstance(data, dict) or data.get("kind") != "bench":
        raise ResultError("expected results of `stagekit bench`", where=path)
    if data.get("schema") != SCHEMA:
        remedy = "run `stagekit bench` again, or read them with the version that wrote them"
        raise ResultError(f"its schema is {data.get('schema')!r}, expected {SCHEMA}", where=path, remedy=remedy)
    try:
        return Result.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ResultError(f"the results are not valid: {problems}", where=path) from error


def schema() -> dict[str, Any]:
    """The JSON schema of a file of results."""
    return Result.model_json_schema(by_alias=True)
