"""``stagekit partition``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stagekit.cli.console import (
    PATH,
    SEED,
    emit,
    json_option,
    megabytes,
    note,
    parse_size,
    parse_triple,
    progress,
    table,
)
from stagekit.errors import UsageError

if TYPE_CHECKING:
    from stagekit.bundle import StagesManifest
    from stagekit.partition.from_torch import Exporter


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=PATH, help="Where the .stages folder goes; by default NAME.stages here.")
@click.option("--weights", help="A state dict (.safetensors, .pth, .onnx), or 'packaged' for an installed package's.")
@click.option("--input", "size", metavar="HxW", help="Frame size in pixels.")
@click.option("--output-stride", type=int, help="Of a ResNet or EfficientNet: 8, 16 or 32.")
@click.option(
    "--cut", "cuts", multiple=True, help="A boundary of a built-in backbone; once for each. Default: all usual."
)
@click.option(
    "--exporter",
    type=click.Choice(["dynamo", "torchscript"]),
    default="dynamo",
    show_default=True,
    help="Torch's exporter.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of random weights, where none are given.")
@click.option("--stages", type=int, help="Cut an ONNX file into this many parts of about equal MACs.")
@click.option("--at", multiple=True, metavar="TENSOR[,TENSOR]", help="Cut an ONNX file here; once for each cut.")
@click.option("--until", metavar="TENSOR", help="End there, leaving out what an ONNX file has behind it.")
@click.option("--list", "list_places", is_flag=True, help="Show where an ONNX file can be cut by one tensor, and stop.")
@click.option("--mean", metavar="R,G,B", help="Put normalisation in front of an ONNX file: mean, in 0..255.")
@click.option("--std", metavar="R,G,B", help="Likewise: standard deviation, in 0..255.")
@json_option
def command(
    model: str,
    output: Path | None,
    weights: str | None,
    size: str | None,
    output_stride: int | None,
    cuts: tuple[str, ...],
    exporter: str,
    seed: int,
    stages: int | None,
    at: tuple[str, ...],
    until: str | None,
    list_places: bool,
    mean: str | None,
    std: str | None,
    as_json: bool,
) -> None:
    """Cut MODEL into frozen stages: a built-in backbone by name, any ONNX file, or what a recipe tunes tasks on.

    \b
    Examples:
      stagekit partition resnet50 --weights w.safetensors --input 512x512
      stagekit partition recipe.toml -o x.stages
      stagekit partition any.onnx --list
      stagekit partition any.onnx --stages 4 -o any.stages
      stagekit partition any.onnx --at relu_17 --at add_30,mask --until relu_48 \\
        --mean 123.7,116.3,103.5 --std 58.4,57.1,57.4 -o any.stages
    """
    from stagekit.partition.foreign import partition_onnx
    from stagekit.partition.from_onnx import normalisation
    from stagekit.partition.partition import partition_backbone

    frame = parse_size(size)
    torch_exporter: Exporter = "dynamo" if exporter == "dynamo" else "torchscript"
    if not model.endswith(".onnx") and (stages or at or until or list_places or mean or std):
        raise UsageError("--stages, --at, --until, --list, --mean and --std are for ONNX files", where=model)
    if model.endswith(".toml"):
        if weights or size or output_stride or cuts or seed:
            raise UsageError("a recipe says which weights, size, stride and cuts its backbone has", where=model)
        from stagekit.tune.stages import partition_recipe

        with progress() as tell:
            manifest = partition_recipe(Path(model), output, exporter=torch_exporter, progress=tell)
    elif model.endswith(".onnx"):
        if weights or output_stride or cuts:
            raise UsageError("--weights, --output-stride and --cut are for built-in backbones", where=model)
        if list_places:
            _list(Path(model), frame, until, as_json)
            return
        before = normalisation(parse_triple(mean, "--mean"), parse_triple(std, "--std"))
        with progress() as tell:
            manifest = partition_onnx(
                Path(model),
                output or Path(Path(model).stem + ".stages"),
                at=[part.split(",") for part in at],
                stages=stages,
                until=until,
                size=frame,
                normalisation=before,
                progress=tell,
            )
        if manifest.frame.spec.dtype != "uint8":
            note(
                f"warning: the first stage takes {manifest.frame.spec}; with --mean and --std it takes images,"
                " and tasks can be tuned on it"
            )
    else:
        path = _weights(model, weights)
        with progress() as tell:
            manifest = partition_backbone(
                model,
                output or Path(f"{model}.stages"),
                weights=path,
                size=frame,
                output_stride=output_stride,
                cuts=cuts or None,
                exporter=torch_exporter,
                seed=seed,
                progress=tell,
            )
    folder = output or Path(f"{manifest.name}.stages")
    emit({"path": str(folder), **manifest.model_dump(mode="json", by_alias=True)}, describe(manifest, folder), as_json)


def _weights(model: str, weights: str | None) -> Path | None:
    if weights == "packaged":
        from stagekit.models.registry import packaged_weights

        return packaged_weights(model, "--weights")
    if weights is None:
        note("warning: no --weights given; the parameters are random and good for timing only")
        return None
    return Path(weights)


def _list(path: Path, size: tuple[int, int] | None, until: str | None, as_json: bool) -> None:
    from stagekit.partition.foreign import places

    found, total = places(path, size, until)
    rows = [(c.tensor, 100 * c.macs_before / max(total, 1), " x ".join(map(str, c.shape))) for c in found]
    data = {
        "places": [{"tensor": c.tensor, "macs_before": c.macs_before, "shape": c.shape} for c in found],
        "macs": total,
    }
    emit(data, table(["tensor", "% of MACs before", "shape"], rows), as_json)


def describe(manifest: StagesManifest, folder: Path) -> str:
    """A bundle for people."""
    rows = [
        (
            s.name,
            s.macs / 1e9,
            s.parameters / 1e6,
            "; ".join(f"{' x '.join(map(str, t.shape))}" for t in s.boundary.tensors),
        )
        for s in manifest.stages
    ]
    size = sum(f.stat().st_size for f in folder.iterdir())
    error = "" if manifest.export_error is None else f", {manifest.export_error:.1e} from its source"
    return "\n".join(
        [
            f"{folder}: {len(rows)} stages of {manifest.backbone.weights}, {megabytes(size)}{error}",
            f"backbone {manifest.backbone.id[:16]}, frames {manifest.frame.height} x {manifest.frame.width}",
            table(["stage", "GMAC", "M params", "boundary"], rows),
        ]
    )
