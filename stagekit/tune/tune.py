"""The driver: a recipe to a task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stagekit.bundle import check_writable
from stagekit.bundle.manifest import ClassEntry, Metric, TaskManifest, ThroughEntry
from stagekit.data.dataset import Dataset, refuse
from stagekit.data.layouts import open_dataset
from stagekit.errors import UsageError, VerificationFailed
from stagekit.models.backbone import Backbone
from stagekit.models.counts import parameters
from stagekit.models.prompted import PromptedNetwork
from stagekit.partition.partition import partition_module
from stagekit.partition.task import write_task
from stagekit.target import Progress, silent
from stagekit.tune.augment import Augment
from stagekit.tune.batches import Batches, Fit, Images, load
from stagekit.tune.bundled import identity
from stagekit.tune.checkpoint import Progressed, progress_in
from stagekit.tune.features import cache_features, variants_to_cache
from stagekit.tune.loop import LAST, Input, Source, Watch, learn
from stagekit.tune.network import create_backbone, create_network
from stagekit.tune.predict import predictor
from stagekit.tune.recipe import Recipe
from stagekit.tune.schedule import class_weights
from stagekit.tune.score import metrics, score
from stagekit.tune.through import ThroughNetwork, frozen_stages, last_segment


def tune(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    watch: Watch = lambda status: None,
    backbone: Backbone | None = None,
) -> TaskManifest:
    """Learns a task and writes it to ``output`` (``X.task``); checkpoints and log go to ``X.tuning`` beside it.

    With method ``full`` or ``scratch`` the backbone that was learned is written to ``X.stages`` beside it: the task
    fits no other. With ``through.record`` the frozen stages run in simulated integers, metrics included, and the task
    is bound to them.

    Args:
        recipe: from :func:`stagekit.tune.recipe_file.read_recipe`.
        output: the bundle to write.
        resume: goes on from the checkpoint in ``X.tuning``.
        progress: told what is going on.
        watch: told about every step.
        backbone: instead of the one that the recipe names, for architectures that are not registered.

    Raises:
        UsageError, WeightsError: the recipe does not fit, or ``output`` is called otherwise.
        UsageError: a run of this recipe stopped half-way, and it is not resumed.
        BundleError, StagekitError: something else is called ``output``, or nothing can be written there.
        DatasetError: lists all that is wrong with the data.
        VerificationFailed: the frozen backbone is not what it was.
        KeyboardInterrupt: after SIGINT, once a checkpoint is written.
    """
    _check_output(recipe, output, resume)
    progress("checking the data set")
    dataset = open_dataset(recipe.data.kind, recipe.data.folder)
    _check_splits(recipe, dataset)
    dataset.check(lambda done, total: progress(f"checking the data set: {done} of {total}"))
    frequencies = dataset.class_frequencies(recipe.data.train)
    progress("building the network")
    if backbone is None:
        backbone = create_backbone(recipe.backbone, recipe.method, recipe.train.seed)
    before = identity(backbone)
    network = create_network(recipe, backbone, len(frequencies), torch.from_numpy(frequencies).float())
    stages = None
    learner = network
    if recipe.through.record is not None:
        stages = frozen_stages(backbone, recipe.through, last_segment(network), progress)
        learner = ThroughNetwork(network, stages, recipe.through.bound)
    at = train(learner, recipe, dataset, frequencies, output.with_suffix(".tuning"), resume, progress, watch)
    learner.cpu()
    network.cpu().requires_grad_(False)
    after = identity(backbone)
    if recipe.method.frozen and after != before:
        raise VerificationFailed(
            f"the frozen backbone changed while tuning: its id was {before[:16]}, now it is {after[:16]}",
            where=recipe.task.name,
        )
    scores = final_scores(learner, recipe, dataset, progress)
    bound = stages.entry if stages else None
    return _write(network, recipe, dataset, frequencies, output, after, at, scores, bound, progress)


def train(
    network: PromptedNetwork,
    recipe: Recipe,
    dataset: Dataset,
    frequencies: np.ndarray[Any, np.dtype[np.float64]],
    run: Path,
    resume: bool = False,
    progress: Progress = silent,
    watch: Watch = lambda status: None,
) -> Progressed:
    """Tunes the network in place on the recipe's device and data; see :func:`stagekit.tune.loop.learn`."""
    device = _device(recipe.train.device)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    predict = predictor(network, recipe)
    weights = class_weights(recipe.train.class_weights, torch.from_numpy(frequencies).float())

    def miou() -> float:
        return score(dataset, recipe.data.val, predict).miou()

    return learn(
        network,
        recipe,
        create_source(network, recipe, dataset, device, progress),
        miou if recipe.data.val else None,
        run,
        data=dataset.digest(),
        class_weights=None if weights is None else weights.to(device),
        penalty=network.penalty if isinstance(network, ThroughNetwork) and network.bound else None,
        resume=resume,
        watch=watch,
    )


def create_source(
    network: PromptedNetwork, recipe: Recipe, dataset: Dataset, device: torch.device, progress: Progress = silent
) -> Source:
    """Batches of the training split: frames, or cached features where the recipe allows them."""
    options, size = recipe.train, network.backbone.size
    images = Images(dataset, recipe.data.train, Fit(size, recipe.data.resize, options.augment.crop))
    red, green, blue = (round(level) for level in network.backbone.preprocessing.mean)
    augment = Augment(options.augment, size, (red, green, blue))
    variants = variants_to_cache(options, recipe.method.frozen)
    if not variants:
        batches = Batches(images, augment, options.batch, options.seed)
        return lambda start, end: load(batches, start, end, options.workers)
    each = f", {variants} variants each" if variants > 1 else ""
    cached = cache_features(
        network.eval(),
        images,
        augment,
        options,
        variants,
        device,
        lambda done, total: progress(f"caching features: {done} of {total} images{each}"),
    )

    def source(start: int, end: int) -> Iterator[tuple[Input, Tensor]]:
        for index in range(start, end):
            yield cached[index]

    return source


def final_scores(
    network: PromptedNetwork, recipe: Recipe, dataset: Dataset, progress: Progress = silent
) -> tuple[Metric, ...]:
    """Metrics of the tuned network on ``val`` and, this once, on ``test``."""
    predict = predictor(network, recipe)
    found: tuple[Metric, ...] = ()
    for split in (recipe.data.test, recipe.data.val):
        if split:
            progress(f"scoring on {split}")
            found += metrics(score(dataset, split, predict), dataset, split, recipe.data.folder.name)
    return found


def _write(
    network: PromptedNetwork,
    recipe: Recipe,
    dataset: Dataset,
    frequencies: np.ndarray[Any, np.dtype[np.float64]],
    output: Path,
    identity: str,
    at: Progressed,
    scores: tuple[Metric, ...],
    through: ThroughEntry | None,
    progress: Progress,
) -> TaskManifest:
    classes = dataset.classes
    learned = parameters(network.head) + parameters(network.spms)
    if not recipe.method.frozen:
        learned += parameters(network.backbone)
        partition_module(
            network.backbone.eval(),
            output.with_suffix(".stages"),
            weights=f"tuned by {recipe.task.name} ({recipe.method.kind})",
            progress=progress,
        )
    return write_task(
        network.eval(),
        output,
        name=recipe.task.name,
        backbone=identity,
        classes=[ClassEntry(name=n, color=c) for n, c in zip(classes.names, classes.palette, strict=True)],
        prior=[float(share) for share in frequencies],
        resize=recipe.data.resize,
        metrics=scores,
        through=through,
        provenance={
            "recipe": recipe.portable(),
            "data": {"digest": at.data, "source": classes.source, "license": classes.license},
            "learned_parameters": learned,
            "seconds": round(at.seconds, 1),
            "best_step": at.best_step,
            "torch": torch.__version__,
            "written": time.strftime("%Y-%m-%d", time.gmtime()),
        },
        progress=progress,
    )


def _check_output(recipe: Recipe, output: Path, resume: bool) -> None:
    """Asks before learning whether its result may be written, and whether an earlier run would be lost."""
    if output.suffix != ".task":
        raise UsageError("a task is called X.task, since X.tuning and X.stages stand beside it", where=output)
    check_writable(output, "task")
    if not recipe.method.frozen:
        check_writable(output.with_suffix(".stages"), "stages")
    last = output.with_suffix(".tuning") / LAST
    if resume or output.exists() or not last.is_file():
        return
    at = progress_in(last)
    if at.recipe == recipe.digest() and at.steps < recipe.train.iterations:
        raise UsageError(
            f"this recipe's run stopped at step {at.steps} of {recipe.train.iterations}",
            where=last.parent,
            remedy="--resume goes on with it; delete the folder to begin anew",
        )


def _check_splits(recipe: Recipe, dataset: Dataset) -> None:
    """Raises DatasetError for splits that are missing: before learning, for ``test`` is read after it."""
    named = {"train": recipe.data.train, "val": recipe.data.val, "test": recipe.data.test}
    known = ("", *dataset.splits)
    refuse(
        [f"data.{key}: no split is called {name!r}" for key, name in named.items() if name not in known],
        dataset.root,
        f"there are: {', '.join(dataset.splits) or 'none'}; val and test may be left out: --set data.test=",
    )


def _device(choice: str) -> torch.device:
    if choice == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(choice)
