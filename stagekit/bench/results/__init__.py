"""Results as data: one JSON file a deployment, with every raw sample and a published schema.

``stagekit report --schema`` prints the JSON schema. All times are in seconds, all sizes in bytes.
"""

from stagekit.bench.results.circumstances import DeployFacts, DeviceFacts, Memory, Noise, NoiseProbe, Roof
from stagekit.bench.results.figures import CallTimes, Figure, Kind, Samples, ScenarioResult
from stagekit.bench.results.file import Result, ResultError, read, schema, write
from stagekit.bench.results.tasks import Accuracy, BaselineRow, Picture, ScalingRow

__all__ = [
    "Accuracy",
    "BaselineRow",
    "CallTimes",
    "DeployFacts",
    "DeviceFacts",
    "Figure",
    "Kind",
    "Memory",
    "Noise",
    "NoiseProbe",
    "Picture",
    "Result",
    "ResultError",
    "Roof",
    "Samples",
    "ScalingRow",
    "ScenarioResult",
    "read",
    "schema",
    "write",
]
