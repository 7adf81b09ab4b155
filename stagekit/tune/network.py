"""The network that a recipe describes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stagekit.errors import UsageError
from stagekit.models.backbone import Backbone, BoundaryInfo
from stagekit.models.heads import Head, LightHead, PPMHead, PUPHead, create_head, setr_auxiliary_heads
from stagekit.models.presets import width_for
from stagekit.models.prompted import PromptedNetwork, tap
from stagekit.models.registry import create, packaged_weights
from stagekit.models.spm import SPM
from stagekit.tune.bundled import BundledBackbone
from stagekit.tune.recipe import Recipe
from stagekit.tune.sections import BackboneSection, HeadSection, MethodSection

Parts = tuple[BoundaryInfo, ...]


def create_backbone(section: BackboneSection, method: MethodSection, seed: int) -> Backbone:
    """The backbone with its weights, or as its stages hold it; with random weights, from the seed, for ``scratch``.

    Raises:
        UsageError: no such architecture, or no installed package carries its weights.
        WeightsError: the weights cannot be read or do not fit.
        BundleError, GraphError: see :class:`stagekit.tune.bundled.BundledBackbone`.
    """
    if section.stages is not None:
        return BundledBackbone(section.stages)
    assert section.name is not None
    return create(
        section.name,
        size=section.size,
        output_stride=section.output_stride,
        cuts=section.cuts,
        weights=None if method.kind == "scratch" else weights_of(section),
        seed=seed,
    )


def create_network(recipe: Recipe, backbone: Backbone, classes: int, prior: Tensor) -> PromptedNetwork:
    """Backbone, SPMs and head, in the state in which tuning starts.

    The head is drawn before the SPMs, so with one seed ``spm`` starts from the function of ``head`` exactly.

    Args:
        recipe: what to build and what of it learns.
        backbone: of the recipe.
        classes: s.
        prior: class frequencies (s,) of the training set.

    Raises:
        UsageError: the recipe names a boundary that is not there, or parts do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        head = _head(recipe.head, backbone, classes)
        spms = _spms(recipe.method, backbone, head, classes, prior) if recipe.method.kind == "spm" else {}
        auxiliary = setr_auxiliary_heads([tap(backbone, unit) for unit in recipe.head.auxiliary], classes)
    network = PromptedNetwork(backbone, spms, head, auxiliary)
    if recipe.method.frozen:
        return network.freeze_backbone()
    backbone.requires_grad_(True)
    # Pretrained statistics are better than those of small batches; random weights have none worth holding.
    return network.hold_statistics() if recipe.method.kind == "full" else network


def weights_of(section: BackboneSection) -> Path:
    """The file of an architecture's weights.

    Raises:
        UsageError: no installed package carries them.
    """
    if section.weights != "packaged":
        return Path(section.weights)
    assert section.name is not None
    return packaged_weights(section.name, "backbone.weights")


def _head(section: HeadSection, backbone: Backbone, classes: int) -> Head:
    boundaries = _named(backbone, section.reads, "head.reads") or (backbone.boundaries[-1],)
    if section.width is None:
        return create_head(section.kind, boundaries, classes)
    if section.kind == "light":
        return LightHead(boundaries, classes, width=section.width)
    if section.kind in ("ppm", "pup", "setr-pup"):
        create_head(section.kind, boundaries, 2)  # complains where the head reads one boundary and several are named
        if section.kind == "ppm":
            return PPMHead(boundaries[0], classes, width=section.width)
        return PUPHead(boundaries[0], classes, convolutions=3 if section.kind == "pup" else 4, width=section.width)
    return create_head(section.kind, boundaries, classes)


def _spms(method: MethodSection, backbone: Backbone, head: Head, classes: int, prior: Tensor) -> dict[str, SPM]:
    names = [boundary.name for boundary in backbone.boundaries]
    last = max(names.index(name) for name in head.reads)
    if method.prompts == "all":
        chosen: Parts = backbone.boundaries[: last + 1]
    else:
        chosen = _named(backbone, method.prompts, "method.prompts")
        if [b.name for b in chosen] != sorted((b.name for b in chosen), key=names.index):
            raise UsageError("prompts are named in the order of the backbone", where="method.prompts")
    widths = method.widths or [width_for(method.preset, b.channels, b.kind) for b in chosen]
    return {
        boundary.name: SPM(
            boundary.channels,
            classes,
            width,
            dilations=method.dilations,
            prior=None if position else prior,
            mode=method.pdc,
            norm=method.norm,
            activation=method.activation,
            prompt=method.prompt,
        )
        for position, (boundary, width) in enumerate(zip(chosen, widths, strict=True))
    }


def _named(backbone: Backbone, chosen: tuple[str, ...], where: str) -> Parts:
    known = {boundary.name: boundary for boundary in backbone.boundaries}
    strange = [name for name in chosen if name not in known]
    if strange:
        raise UsageError(
            f"the backbone has no boundary {', '.join(map(repr, strange))}",
            where=where,
            remedy=f"one of {', '.join(known)}; a cut inside a stage must be listed in backbone.cuts",
        )
    return tuple(known[name] for name in chosen)
