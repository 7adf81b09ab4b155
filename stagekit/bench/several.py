"""Deployments one after the other in this process, each compared with the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stagekit.bench import results
from stagekit.bench.accuracy import Labels
from stagekit.bench.measure import measure
from stagekit.bench.options import Options
from stagekit.bench.results import Result
from stagekit.errors import StagekitError


def measure_each(
    paths: Sequence[Path],
    data: Sequence[str],
    options: Options,
    output: Path,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
    reference: tuple[str, Labels] | None = None,
) -> list[Result]:
    """Results of each deployment, which are also in ``output``; one that cannot be opened is left out with a warning.

    Args:
        data: see :func:`stagekit.bench.pictures.find_pictures`.
        reference: whose labels those of all are compared with; the first deployment's without.

    Raises:
        StagekitError: there is one deployment alone, and it cannot be measured.
    """
    made: list[Result] = []
    for number, path in enumerate(paths):
        name = path.name.removesuffix(".deploy")
        if any(r.deployment.name == name for r in made):
            name = f"{name}-{number + 1}"

        def save(result: Result, name: str = name) -> None:
            deployment = result.deployment.model_copy(update={"name": name})
            results.write(result.model_copy(update={"deployment": deployment}), output / f"{name}.json")

        try:
            _, labels = measure(path, data, options, save, output / f"{name}.files", tell, reference)
        except StagekitError as error:
            if len(paths) == 1:
                raise
            warn(f"warning: {path} is left out: {error}")
            continue
        made.append(results.read(output / f"{name}.json"))
        reference = reference or (name, labels)
    return made
