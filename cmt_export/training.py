"""The training loop: resumable to the same bits, stopped cleanly, its checkpoint always usable.

Order of images and ε of every batch follow from the seed and the epoch alone; weights, optimiser, position and the
state of the dropout generator are in the checkpoint. So a resumed run repeats the uninterrupted one bit for bit, given
the same thread count, precision and memory format, which are in the checkpoint too.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from calibration.datasets import Dataset, Split
from calibration.pixels import to_pixels
from cmt_export.checkpoint import PROBES, Checkpoint, Execution, Schedule
from cmt_export.execution import autocast, choose_execution, place, running
from cmt_export.networks import Logits, build_network, load_trunk_factory
from cmt_export.objective import Recipe, training_loss
from runtime.errors import CmtError, UsageError

_CHECK_EVERY = 50
"""Steps between looks at the loss; each look waits for a GPU."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a run stands, for whoever shows progress.

    Attributes:
        epoch: From 0.
        epochs: Of the whole run.
        step: Steps done in this epoch.
        steps: Of one epoch.
        loss: Mean of the epoch so far; NaN before the first look at it.
        record: The epoch's history record, once it is finished.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    record: dict[str, float] | None = None


OnStep = Callable[[Step], None]


@dataclass(kw_only=True)
class Run:
    """A training run in memory."""

    data: Dataset
    checkpoint: Checkpoint
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: OneCycleLR
    epoch: int = 0
    step: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return math.ceil(len(self.data.train) / self.checkpoint.schedule.batch_size)


def start(
    data: Dataset,
    *,
    recipe: Recipe,
    schedule: Schedule,
    trunk: str = "oracle",
    classmap: tuple[int, ...] | None = None,
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
        classmap: M, for a defended recipe.
        provenance: What the checkpoint records beside the data, e.g. where the Classmap came from.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto`` (measured), ``fp32`` or ``bf16``.
        memory_format: ``auto`` (measured), ``contiguous`` or ``channels-last``.
        threads: Of PyTorch on the CPU.
        execution: Taken as it is, without measuring.

    Raises:
        UsageError: The Classmap is missing or does not fit the classes.
    """
    _check_classmap(recipe, classmap, len(data.classes))
    height, width, channels = data.input_shape
    torch.manual_seed(schedule.seed)
    network = build_network(
        load_trunk_factory(trunk),
        input_shape=(channels, height, width),
        classes=len(data.classes),
        dual=recipe.defended,
        lock=recipe.lock,
        lock_width=recipe.lock_width,
    )
    if execution is None:
        pixels, labels = _batch(data.train, np.arange(min(schedule.batch_size, len(data.train))))
        execution = choose_execution(
            network,
            recipe,
            pixels,
            labels,
            _tensor(classmap),
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
    """
    if checkpoint.finished:
        raise UsageError("--resume: expected an unfinished checkpoint, got one that is done; train to another -o")
    if data.train.digest != checkpoint.data["train"]:
        raise UsageError(f"--resume: expected the data the run began with ({checkpoint.data['name']}), got {data.name}")
    run = _run(data, checkpoint, checkpoint.build(trunk))
    progress = checkpoint.progress
    run.optimizer.load_state_dict(progress["optimizer"])
    run.schedule.load_state_dict(progress["schedule"])
    run.epoch, run.step, run.loss_sum = progress["epoch"], progress["step"], progress["loss_sum"]
    return run


def _run(data: Dataset, checkpoint: Checkpoint, network: nn.Module) -> Run:
    network = place(network, checkpoint.execution)
    settings = checkpoint.schedule
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.learning_rate, fused=True)
    total = settings.epochs * math.ceil(len(data.train) / settings.batch_size)
    one_cycle = OneCycleLR(optimizer, max_lr=settings.learning_rate, total_steps=total + 1, cycle_momentum=False)
    return Run(data=data, checkpoint=checkpoint, network=network, optimizer=optimizer, schedule=one_cycle)


def train(run: Run, path: str | os.PathLike[str], *, on_step: OnStep = lambda _: None) -> Checkpoint:
    """Train to the end of the schedule, saving to `path` after every epoch.

    Args:
        run: From `start` or `resume`.
        path: Where the checkpoint goes.
        on_step: Told of every step.

    Returns:
        The finished checkpoint, as saved.

    Raises:
        CmtError: The loss is not finite, or the checkpoint cannot be written; the last one saved is kept.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state after the last whole step is saved first.
    """
    with running(run.checkpoint.execution), _deferred_signals() as stop:
        while run.epoch < run.checkpoint.schedule.epochs:
            _train_epoch(run, path, on_step, stop)
        run.checkpoint.weights, run.checkpoint.progress = run.network.state_dict(), {}
        run.checkpoint.save(path)
    return run.checkpoint


def _train_epoch(run: Run, path: str | os.PathLike[str], on_step: OnStep, stop: threading.Event) -> None:
    settings = run.checkpoint.schedule
    order, epsilons = _plan(run)
    _restore_generator(run)
    run.network.train()
    classmap = _tensor(run.checkpoint.classmap, run.checkpoint.execution.device)
    loss = math.nan
    while run.step < run.steps:
        rows = np.sort(_share(order, run.step, run.steps))
        _train_step(run, rows, classmap, epsilon=float(epsilons[run.step]))
        if run.step % _CHECK_EVERY == 0 or run.step == run.steps:
            loss = _mean_loss(run)
        on_step(Step(epoch=run.epoch, epochs=settings.epochs, step=run.step, steps=run.steps, loss=loss))
        if stop.is_set() and run.step < run.steps:
            _mean_loss(run)
            _save(run, path)
            raise KeyboardInterrupt
    record = {"loss": loss, **evaluate(run.network, run.data.test, run.checkpoint)}
    run.checkpoint.history.append(record)
    on_step(Step(epoch=run.epoch, epochs=settings.epochs, step=run.step, steps=run.steps, loss=loss, record=record))
    run.epoch, run.step, run.loss_sum = run.epoch + 1, 0, torch.zeros(())
    if run.epoch < settings.epochs:
        _save(run, path)
        if stop.is_set():
            raise KeyboardInterrupt


def _plan(run: Run) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Draw the order of the images and the ε of every batch of this epoch."""
    recipe = run.checkpoint.recipe
    generator = np.random.default_rng([run.checkpoint.schedule.seed, run.epoch])
    order = generator.permutation(len(run.data.train))
    share = 1 - generator.random(run.steps) if recipe.epsilon_sampling == "uniform" else np.ones(run.steps)
    return order, recipe.epsilon * share


def _share(order: npt.NDArray[np.int64], step: int, steps: int) -> npt.NDArray[np.int64]:
    """Return the rows of one step: shares of equal size, so that no last batch is too small to normalise."""
    return order[step * len(order) // steps : (step + 1) * len(order) // steps]


def _train_step(run: Run, rows: npt.NDArray[np.int64], classmap: Tensor | None, *, epsilon: float) -> None:
    execution = run.checkpoint.execution
    pixels, labels = _batch(run.data.train, rows)
    pixels, labels = place(pixels, execution), labels.to(execution.device)
    with autocast(execution):
        loss = training_loss(run.network, run.checkpoint.recipe, pixels, labels, classmap=classmap, epsilon=epsilon)
    run.optimizer.zero_grad()
    # Only the weights: the first layer need not be differentiated back to the pixels a second time.
    torch.autograd.backward(loss, inputs=[weight for weight in run.network.parameters() if weight.requires_grad])
    run.optimizer.step()
    run.schedule.step()
    run.loss_sum = run.loss_sum.to(execution.device) + loss.detach()
    run.step += 1


def _mean_loss(run: Run) -> float:
    loss = float(run.loss_sum) / run.step
    if not math.isfinite(loss):
        raise CmtError(
            f"training: expected a finite loss, got {loss} in epoch {run.epoch + 1}; "
            "lower --learning-rate, or use --robust-loss bounded; the last checkpoint is kept"
        )
    return loss


def _save(run: Run, path: str | os.PathLike[str]) -> None:
    checkpoint, cuda = run.checkpoint, run.checkpoint.execution.device == "cuda"
    checkpoint.weights = run.network.state_dict()
    checkpoint.progress = {
        "epoch": run.epoch,
        "step": run.step,
        "loss_sum": run.loss_sum.cpu(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "generator": torch.cuda.get_rng_state() if cuda else torch.get_rng_state(),
    }
    checkpoint.save(path)


def _restore_generator(run: Run) -> None:
    """Put the dropout generator where this step of this epoch finds it."""
    if run.step == 0:
        torch.manual_seed(run.checkpoint.schedule.seed * 1_000_003 + run.epoch + 1)
    elif run.checkpoint.execution.device == "cuda":
        torch.cuda.set_rng_state(run.checkpoint.progress["generator"])
    else:
        torch.set_rng_state(run.checkpoint.progress["generator"])


@torch.no_grad()
def evaluate(network: nn.Module, split: Split, checkpoint: Checkpoint, *, batch_size: int = 512) -> dict[str, float]:
    """Return the accuracy through Z*, and for two heads the share that the hard rule rejects, on benign images.

    Args:
        network: On the device of the checkpoint's execution.
        split: The images.
        checkpoint: Its Classmap and execution.
        batch_size: Images a forward pass.
    """
    network.eval()
    correct = rejected = 0
    classmap = _tensor(checkpoint.classmap)
    for first in range(0, len(split), batch_size):
        pixels, labels = _batch(split, np.arange(first, min(first + batch_size, len(split))))
        outputs: Logits = network(place(pixels, checkpoint.execution))
        predicted = outputs.logits.argmax(1).cpu()
        correct += int((predicted == labels).sum())
        if outputs.robust_logits is not None and classmap is not None:
            rejected += int((outputs.robust_logits.argmax(1).cpu() != classmap[predicted]).sum())
    accuracy = {"accuracy": correct / len(split)}
    return accuracy | ({} if classmap is None else {"rejected": rejected / len(split)})


def _batch(split: Split, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(to_pixels(split.images[rows])), torch.from_numpy(split.labels[rows])


def _tensor(classmap: tuple[int, ...] | None, device: str = "cpu") -> Tensor | None:
    return None if classmap is None else torch.tensor(classmap, device=device)


def _check_classmap(recipe: Recipe, classmap: tuple[int, ...] | None, classes: int) -> None:
    if not recipe.defended:
        return
    if classmap is None or len(classmap) != classes:
        raise UsageError(f"classmap: expected {classes} labels, got {'none' if classmap is None else len(classmap)}")
    wrong = [y for y, partner in enumerate(classmap) if partner == y or not 0 <= partner < classes]
    if wrong:
        raise UsageError(f"classmap: expected another class for every class, got {classmap[wrong[0]]} for {wrong[0]}")


@contextmanager
def _deferred_signals() -> Iterator[threading.Event]:
    """Collect SIGINT and SIGTERM until the loop can stop between two steps."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
