"""Measures the pace of this machine on the networks themselves: some training steps, a gradient, a verdict."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from calibration.datasets import Dataset
from calibration.gradients import GradientGraph
from calibration.judge import BATCH, Judge
from calibration.objectives import CROSS_ENTROPY
from calibration.pixels import to_pixels
from cmt_export.exporting import build_guard
from cmt_export.reproduction.lineup import LineUp
from cmt_export.reproduction.pace import Pace, Stopwatch
from cmt_export.reproduction.training_units import Train
from cmt_export.run import Run, start
from cmt_export.training import Step, train
from runtime.artifact import read_artifact

_STEPS = 6
_ROUNDS = 4


class _EnoughError(Exception):
    """Ends a training that was begun to be timed."""


def measure(lineup: LineUp, data: Dataset, *, device: str, threads: int | None) -> Pace:
    """Return the pace of this machine; takes about half a minute.

    Args:
        lineup: The networks.
        data: The data set.
        device: As for `Guard`, and for training.
        threads: The same.
    """
    training = {}
    run = None
    for export in (lineup.substitute, lineup.oracle, lineup.guard):
        run = _begin(export.train, data, device=device, threads=threads)
        watch = _timed(run)
        training[f"{export.train.recipe.name} {export.train.trunk}"] = watch.best / export.train.schedule.batch_size
    assert run is not None  # the guard was the last
    run.checkpoint.weights = run.network.state_dict()
    model = build_guard(run.checkpoint.build(), run.checkpoint)
    rows = np.arange(min(BATCH, len(data.test)))
    pixels, labels = to_pixels(data.test.images[rows]), data.test.labels[rows]
    graph = GradientGraph(model, of=("logits",), device=device, threads=threads)
    judge = Judge(read_artifact(model), device=device, threads=threads)
    gradient, forward = Stopwatch(), Stopwatch()
    for _ in range(_ROUNDS):
        graph.value_and_gradient(CROSS_ENTROPY, pixels, labels=labels)
        gradient.lap()
    for _ in range(_ROUNDS):
        judge.verdicts(pixels)
        forward.lap()
    return Pace(training=training, gradient=gradient.best / len(rows), forward=forward.best / len(rows))


def _begin(unit: Train, data: Dataset, *, device: str, threads: int | None) -> Run:
    """Return a run with any Classmap: it costs the same."""
    classes = len(data.classes)
    return start(
        data,
        recipe=unit.recipe,
        schedule=unit.schedule,
        trunk=unit.trunk,
        classmap=tuple((y + 1) % classes for y in range(classes)) if unit.classmap is not None else None,
        device=device,
        threads=threads,
        execution=unit.execution,
    )


def _timed(run: Run) -> Stopwatch:
    """Train some steps, and return the time of the best one."""
    watch, done = Stopwatch(), 0

    def on_step(step: Step) -> None:
        nonlocal done
        watch.lap()
        done += 1
        if done == _STEPS:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_EnoughError):
        train(run, Path(folder) / "model.pt", on_step=on_step)
    return watch
