"""A training run in memory: made fresh, or put back where its checkpoint stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from calibration.datasets import Dataset, Split
from calibration.pixels import to_pixels
from cmt_export.augmentation import augment
from cmt_export.averaging import averaged
from cmt_export.checkpoint import PROBES, Checkpoint, Execution, Schedule
from cmt_export.execution import choose_execution, place
from cmt_export.networks import load_trunk_factory
from cmt_export.recipes import Batch, Recipe, StagedRecipe
from runtime.errors import ModelError, UsageError, one_line

_HELD_OUT_SEED = 1
_OF_AUGMENTATION = 1
"""Keeps its random numbers apart from those of the recipe, which are the same with and without it."""


@dataclass(kw_only=True)
class Run:
    """A training run in memory.

    Attributes:
        data: What it trains on.
        checkpoint: How, and what is saved.
        network: The network whose weights are stepped.
        optimizer: Adam.
        schedule: The one-cycle schedule of its learning rate.
        average: The running mean of the weights; None where the recipe has none.
        rows: Rows of the training images that are trained on.
        held_out: The other rows.
        epoch: Epochs done.
        step: Steps done in this epoch.
        loss_sum: Of these steps.
    """

    data: Dataset
    checkpoint: Checkpoint
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: OneCycleLR
    average: AveragedModel | None
    rows: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    epoch: int = 0
    step: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return math.ceil(len(self.rows) / self.checkpoint.schedule.batch_size)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and exported: the mean of the weights, or the network itself."""
        return self.network if self.average is None else self.average.module

    def shuffle(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Draw this epoch's order of the rows, ``(n,)``, and for every step one number in (0, 1], ``(steps,)``."""
        generator = np.random.default_rng([self.checkpoint.schedule.seed, self.epoch])
        order = self.rows[generator.permutation(len(self.rows))]
        return order, 1 - generator.random(self.steps)

    def batch(self, rows: npt.NDArray[np.int64], draw: float) -> Batch:
        """Return the batch of the step that comes next."""
        settings, execution = self.checkpoint.schedule, self.checkpoint.execution
        pixels, labels = load(self.data.train, rows)
        chance = _seeded(settings.seed, self.epoch, self.step, _OF_AUGMENTATION, device="cpu")
        pixels = augment(pixels, flip=settings.flip, crop=settings.crop, affine=settings.affine, generator=chance)
        done = self.epoch * self.steps + self.step + 1
        return Batch(
            pixels=place(pixels, execution),
            labels=labels.to(execution.device),
            classmap=self.checkpoint.classmap_tensor(execution.device),
            position=done / (settings.epochs * self.steps),
            draw=draw,
            generator=_seeded(settings.seed, self.epoch, self.step, device=execution.device),
        )


def start(
    data: Dataset,
    *,
    recipe: Recipe,
    schedule: Schedule,
    trunk: str = "oracle",
    classmap: tuple[int, ...] | None = None,
    first_stage: Checkpoint | None = None,
    provenance: dict[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    memory_format: str = "auto",
    threads: int | None = None,
    execution: Execution | None = None,
) -> Run:
    """Prepare a fresh run.

    Args:
        data: What to train on; its test split gives the held-out probes.
        recipe: The objective.
        schedule: The optimisation.
        trunk: A built-in name or ``package.module:factory``.
        classmap: M, for a recipe that needs one.
        first_stage: The finished checkpoint of the recipe's first stage, where it has one.
        provenance: What the checkpoint records beside the data, e.g. where the Classmap came from.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto`` (measured), ``fp32`` or ``bf16``.
        memory_format: ``auto`` (measured), ``contiguous`` or ``channels-last``.
        threads: Of PyTorch on the CPU.
        execution: Taken as it is, without measuring.

    Raises:
        UsageError: Classmap or first stage is missing or does not fit the classes, or `crop` not the images.
    """
    _check_classmap(recipe, classmap, len(data.classes))
    height, width, channels = data.input_shape
    if schedule.crop >= min(height, width):
        raise UsageError(f"--crop: expected less than the images' {height}x{width} pixels, got {schedule.crop}")
    torch.manual_seed(schedule.seed)
    network = recipe.build(load_trunk_factory(trunk), input_shape=(channels, height, width), classes=len(data.classes))
    if isinstance(recipe, StagedRecipe):
        _adopt(recipe, network, first_stage)
    if execution is None:
        execution = choose_execution(
            network,
            recipe,
            _example(data, schedule, classmap),
            device=device,
            precision=precision,
            memory_format=memory_format,
            threads=threads,
        )
    probes = data.test.sample(PROBES, seed=schedule.seed)
    checkpoint = Checkpoint(
        trunk=trunk,
        input_shape=(channels, height, width),
        classes=data.classes,
        classmap=classmap,
        recipe=recipe,
        schedule=schedule,
        execution=execution,
        data={"name": data.name, "train": data.train.digest, "images": len(data.train), "test": data.test.digest}
        | (provenance or {}),
        weights={},
        probe_images=np.ascontiguousarray(data.test.images[probes]),
        probe_labels=data.test.labels[probes],
    )
    return _run(data, checkpoint, network)


def resume(data: Dataset, checkpoint: Checkpoint, *, trunk: str | None = None) -> Run:
    """Continue an unfinished run where its checkpoint stands.

    Args:
        data: The same data; its digest is compared.
        checkpoint: What was saved.
        trunk: The factory of a trunk that is not built in.

    Raises:
        UsageError: The run is finished, or the data is another.
        ModelError: What was saved of its progress does not fit the network.
    """
    if checkpoint.finished:
        raise UsageError("--resume: expected an unfinished checkpoint, got one that is done; train to another -o")
    check_same_data(data, checkpoint)
    run = _run(data, checkpoint, checkpoint.build(trunk))
    try:
        _restore(run, checkpoint.progress)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ModelError(
            f"--resume: expected the progress of this run, got a damaged one ({reason}); train to another -o"
        ) from error
    return run


def check_same_data(data: Dataset, checkpoint: Checkpoint) -> None:
    """Raise `UsageError` unless these are the images and labels that a run began with."""
    if data.train.digest != checkpoint.data["train"]:
        raise UsageError(f"--resume: expected the data the run began with ({checkpoint.data['name']}), got {data.name}")


def _restore(run: Run, progress: dict[str, Any]) -> None:
    """Put weights, optimiser, learning rate and position where they were saved."""
    if run.average is not None:
        run.average.n_averaged.fill_(progress["averaged"])
        run.network.load_state_dict(progress["weights"])
    run.optimizer.load_state_dict(progress["optimizer"])
    _check_moments(run.optimizer)
    run.schedule.load_state_dict(progress["schedule"])
    run.epoch, run.step, run.loss_sum = progress["epoch"], progress["step"], progress["loss_sum"]


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Compare the shapes of moments and weights, which PyTorch does not, and then fails in the first step.

    Raises:
        ValueError: They differ.
    """
    for weight, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].shape != weight.shape:
                raise ValueError(f"expected {name} {tuple(weight.shape)}, got {tuple(moments[name].shape)}")


def load(split: Split, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return pixels, float32 ``(B, C, H, W)`` in [0, 1], and labels, int64 ``(B,)``, of some rows, on the CPU."""
    return torch.from_numpy(to_pixels(split.images[rows])), torch.from_numpy(split.labels[rows])


def _run(data: Dataset, checkpoint: Checkpoint, network: nn.Module) -> Run:
    network = place(network, checkpoint.execution)
    settings, recipe = checkpoint.schedule, checkpoint.recipe
    rows, held_out = _split(len(data.train), recipe.held_out)
    by_speed: dict[float, list[Tensor]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            by_speed.setdefault(recipe.speed(name), []).append(weight)
    rates = [settings.learning_rate * speed for speed in by_speed]
    optimizer = torch.optim.Adam([{"params": weights} for weights in by_speed.values()], fused=True)
    total = settings.epochs * math.ceil(len(rows) / settings.batch_size)
    one_cycle = OneCycleLR(optimizer, max_lr=rates, total_steps=total + 1, cycle_momentum=False)
    return Run(
        data=data,
        checkpoint=checkpoint,
        network=network,
        optimizer=optimizer,
        schedule=one_cycle,
        average=averaged(network, recipe.averaging) if recipe.averaging else None,
        rows=rows,
        held_out=held_out,
    )


def _split(n: int, share: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows to train on and the rows held out, both sorted; the same split for every seed of the training."""
    every = np.arange(n)
    if not share:
        return every, every[:0]
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(n)
    size = min(max(1, round(share * n)), n - 1)
    return np.sort(order[size:]), np.sort(order[:size])


def _seeded(*numbers: int, device: str) -> torch.Generator:
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))


def _example(data: Dataset, schedule: Schedule, classmap: tuple[int, ...] | None) -> Batch:
    """Return one full batch on the CPU, at the end of the training, to time a step on."""
    pixels, labels = load(data.train, np.arange(min(schedule.batch_size, len(data.train))))
    return Batch(
        pixels=pixels,
        labels=labels,
        classmap=None if classmap is None else torch.tensor(classmap),
        position=1.0,
        draw=1.0,
        generator=_seeded(schedule.seed, device="cpu"),
    )


def _adopt(recipe: StagedRecipe, network: nn.Module, first_stage: Checkpoint | None) -> None:
    stage = recipe.first_stage
    if first_stage is None or first_stage.recipe != stage.recipe or not first_stage.finished:
        got = "none" if first_stage is None else f"{first_stage.recipe}, {len(first_stage.history)} epochs done"
        raise UsageError(f"{stage.name}: expected a finished checkpoint of {stage.recipe}, got {got}; train it first")
    recipe.adopt(network, first_stage.weights)


def _check_classmap(recipe: Recipe, classmap: tuple[int, ...] | None, classes: int) -> None:
    if not recipe.needs_classmap:
        if classmap is not None:
            raise UsageError(f"classmap: expected none for the recipe {recipe.name}, got {classmap}; leave it out")
        return
    if classmap is None or len(classmap) != classes:
        raise UsageError(f"classmap: expected {classes} labels, got {'none' if classmap is None else len(classmap)}")
    wrong = [y for y, partner in enumerate(classmap) if partner == y or not 0 <= partner < classes]
    if wrong:
        raise UsageError(f"classmap: expected another class for every class, got {classmap[wrong[0]]} for {wrong[0]}")
