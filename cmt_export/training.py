"""The training loop: resumable to the same bits, stopped cleanly, its checkpoint always usable.

Order of images and every random number of a recipe follow from the seed, the epoch and the step alone; weights,
optimiser, position and the state of the dropout generator are in the checkpoint. So a resumed run repeats the
uninterrupted one bit for bit, given the same thread count, precision and memory format, which are there too.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from calibration.datasets import Split
from cmt_export.checkpoint import Checkpoint
from cmt_export.execution import autocast, place, running
from cmt_export.interruption import deferred_signals
from cmt_export.networks import Logits
from cmt_export.recipes import Batch
from cmt_export.rule import hard_rule
from cmt_export.run import Run, load
from runtime.errors import CmtError

_CHECK_EVERY = 50
"""Steps between looks at the loss; each look waits for a GPU."""
_EVALUATED = 512
"""Images of a forward pass without gradients."""


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
    with running(run.checkpoint.execution), deferred_signals() as stop:
        while run.epoch < run.checkpoint.schedule.epochs:
            _train_epoch(run, path, on_step, stop)
        run.checkpoint.weights, run.checkpoint.progress = run.evaluated.state_dict(), {}
        run.checkpoint.save(path)
    return run.checkpoint


def _train_epoch(run: Run, path: str | os.PathLike[str], on_step: OnStep, stop: threading.Event) -> None:
    settings = run.checkpoint.schedule
    order, draws = run.shuffle()
    _restore_generator(run)
    run.network.train()
    loss = math.nan
    while run.step < run.steps:
        rows = np.sort(_share(order, run.step, run.steps))
        _train_step(run, run.batch(rows, float(draws[run.step])))
        if run.step % _CHECK_EVERY == 0 or run.step == run.steps:
            loss = _mean_loss(run)
        on_step(Step(epoch=run.epoch, epochs=settings.epochs, step=run.step, steps=run.steps, loss=loss))
        if stop.is_set() and run.step < run.steps:
            _mean_loss(run)
            _save(run, path)
            raise KeyboardInterrupt
    run.checkpoint.recipe.settle(run.evaluated.eval(), _held_out(run))
    record = {"loss": loss, **evaluate(run.evaluated, run.data.test, run.checkpoint)}
    run.checkpoint.history.append(record)
    on_step(Step(epoch=run.epoch, epochs=settings.epochs, step=run.step, steps=run.steps, loss=loss, record=record))
    run.epoch, run.step, run.loss_sum = run.epoch + 1, 0, torch.zeros(())
    if run.epoch < settings.epochs:
        _save(run, path)
        if stop.is_set():
            raise KeyboardInterrupt


def _share(order: npt.NDArray[np.int64], step: int, steps: int) -> npt.NDArray[np.int64]:
    """Return the rows of one step: shares of equal size, so that no last batch is too small to normalise."""
    return order[step * len(order) // steps : (step + 1) * len(order) // steps]


def _train_step(run: Run, batch: Batch) -> None:
    execution = run.checkpoint.execution
    with autocast(execution):
        loss = run.checkpoint.recipe.loss(run.network, batch)
    run.optimizer.zero_grad()
    # Only the weights: the first layer need not be differentiated back to the pixels a second time.
    torch.autograd.backward(loss, inputs=[weight for weight in run.network.parameters() if weight.requires_grad])
    run.optimizer.step()
    run.schedule.step()
    if run.average is not None:
        run.average.update_parameters(run.network)
    run.loss_sum = run.loss_sum.to(execution.device) + loss.detach()
    run.step += 1


def _mean_loss(run: Run) -> float:
    loss = float(run.loss_sum) / run.step
    if not math.isfinite(loss):
        raise CmtError(
            f"training: expected a finite loss, got {loss} in epoch {run.epoch + 1}; "
            "lower --learning-rate; the last checkpoint is kept"
        )
    return loss


def _save(run: Run, path: str | os.PathLike[str]) -> None:
    checkpoint, cuda = run.checkpoint, run.checkpoint.execution.device == "cuda"
    checkpoint.weights = run.evaluated.state_dict()
    checkpoint.progress = {
        "epoch": run.epoch,
        "step": run.step,
        "loss_sum": run.loss_sum.cpu(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "generator": torch.cuda.get_rng_state() if cuda else torch.get_rng_state(),
    }
    if run.average is not None:
        checkpoint.progress |= {"weights": run.network.state_dict(), "averaged": int(run.average.n_averaged)}
    checkpoint.save(path)


def _restore_generator(run: Run) -> None:
    """Put the dropout generator where this step of this epoch finds it."""
    if run.step == 0:
        torch.manual_seed(run.checkpoint.schedule.seed * 1_000_003 + run.epoch + 1)
    elif run.checkpoint.execution.device == "cuda":
        torch.cuda.set_rng_state(run.checkpoint.progress["generator"])
    else:
        torch.set_rng_state(run.checkpoint.progress["generator"])


def _held_out(run: Run) -> Iterator[Tensor]:
    """Yield the held-out training images in batches, on the network's device."""
    for first in range(0, len(run.held_out), _EVALUATED):
        pixels, _ = load(run.data.train, run.held_out[first : first + _EVALUATED])
        yield place(pixels, run.checkpoint.execution)


@torch.no_grad()
def evaluate(network: nn.Module, split: Split, checkpoint: Checkpoint) -> dict[str, float]:
    """Return the accuracy through Z*, and the share of benign images that the rule rejects without a threshold.

    Args:
        network: On the device of the checkpoint's execution.
        split: The images.
        checkpoint: Its recipe, Classmap and execution.
    """
    network.eval()
    correct = rejected = 0
    classmap = checkpoint.classmap_tensor(checkpoint.execution.device)
    for first in range(0, len(split), _EVALUATED):
        pixels, labels = load(split, np.arange(first, min(first + _EVALUATED, len(split))))
        outputs: Logits = network(place(pixels, checkpoint.execution))
        correct += int((outputs.logits.argmax(1).cpu() == labels).sum())
        rejected += int((~hard_rule(outputs, classmap)).sum())
    accuracy = {"accuracy": correct / len(split)}
    return accuracy | ({} if checkpoint.recipe.rule == "confidence" else {"rejected": rejected / len(split)})
