"""Projected gradient descent: iterative gradient sign from several starts, the best point of all of them kept.

The first start is the image, and its steps have one length: that is IGS. The others are random points, and their steps
shrink from the radius of the ball: long ones cross the rugged ground that training against single steps leaves around
an image, short ones settle. Each kind fools images that the other does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from calibration.attacks.attack import (
    BATCH_SIZE,
    AttackResult,
    Batch,
    BoolArray,
    FloatArray,
    IntArray,
    ascend,
    batches,
    check_count,
    check_epsilon,
    choose_step_size,
    is_flat,
)
from calibration.gradients import GradientGraph
from calibration.objectives import CROSS_ENTROPY, Objective

Succeeded = Callable[[FloatArray, IntArray], BoolArray]
"""Told attacked pixels ``(n, C, H, W)`` and which images they are of, ``(n,)``; returns which need no further start."""


@dataclass(frozen=True, kw_only=True)
class PgdConfig:
    """Hyper-parameters of `pgd`.

    Attributes:
        epsilon: Radius of the ball, in [0, 1].
        step_size: Length of a step in every pixel, in [0, 1]; None takes 2.5 · epsilon / steps. From a random start
            lengths fall evenly from `epsilon` to it.
        steps: Number of steps from each start, at least 1.
        restarts: Number of starts, at least 1: the image itself, then uniformly random points of the ball.
        objective: What to ascend.
        seed: Seed of the random starts, at least 0.

    Raises:
        UsageError: A value is out of range.
    """

    epsilon: float
    step_size: float | None = None
    steps: int = 40
    restarts: int = 3
    objective: Objective = CROSS_ENTROPY
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges and fill in the step size."""
        check_epsilon(self.epsilon)
        check_count("steps", self.steps)
        check_count("restarts", self.restarts)
        check_count("seed", self.seed, least=0)
        object.__setattr__(self, "step_size", choose_step_size(self.step_size, epsilon=self.epsilon, steps=self.steps))


def pgd(
    graph: GradientGraph,
    pixels: FloatArray,
    labels: IntArray,
    *,
    epsilon: float,
    step_size: float | None = PgdConfig.step_size,
    steps: int = PgdConfig.steps,
    restarts: int = PgdConfig.restarts,
    objective: Objective = PgdConfig.objective,
    seed: int = PgdConfig.seed,
    succeeded: Succeeded | None = None,
    targets: IntArray | None = None,
    batch_size: int = BATCH_SIZE,
) -> AttackResult:
    """Climb from each start in turn, and return for each image the point with the greatest loss.

    Args:
        graph: The network.
        pixels: ``(N, C, H, W)`` float32 in [0, 1].
        labels: True labels, ``(N,)`` integers in [0, K).
        epsilon: Radius of the ball, in [0, 1].
        step_size: Length of a step, from a random start of the last one; see `PgdConfig`.
        steps: Number of steps from each start; the loss of the last point takes one more gradient.
        restarts: Number of starts; each image draws the same ones whatever the batch size.
        objective: What to ascend; cross-entropy of `labels` unless said otherwise.
        seed: Seed of the random starts.
        succeeded: Asked after each start about the best points so far; the images it returns are left as they are, and
            cost nothing more. Without it every image is attacked from every start.
        targets: Labels to reach, ``(N,)``, for a targeted objective.
        batch_size: Images at a time.

    Raises:
        UsageError: An argument is not what is said above.
        ModelError: A gradient is not finite.

    Source: Madry et al. 2018, section 5 and its published code: random starts, the worst of all restarts. Croce and
        Hein 2020 (AutoAttack), section 4, for steps that begin long and shrink.
    """
    config = PgdConfig(
        epsilon=epsilon, step_size=step_size, steps=steps, restarts=restarts, objective=objective, seed=seed
    )
    x_adv = pixels.copy()
    loss = np.full(len(pixels), -np.inf, dtype=np.float32)
    gradients = np.zeros(len(pixels), dtype=np.int64)
    no_gradient = np.ones(len(pixels), dtype=np.bool_)
    for batch in batches(graph, objective, pixels, labels, targets, batch_size=batch_size):
        going = batch
        for number in range(restarts):
            top = _climb(graph, going, config, number)
            better = top.loss > loss[going.rows]
            x_adv[going.rows[better]], loss[going.rows[better]] = top.x[better], top.loss[better]
            gradients[going.rows] += steps + 1
            no_gradient[going.rows] &= top.flat
            if succeeded is not None:
                going = going.take(np.flatnonzero(~succeeded(x_adv[going.rows], going.rows)))
            if not len(going.rows):
                break
    return AttackResult(x_adv=x_adv, gradients=gradients, no_gradient=no_gradient, config=config)


class _Top(NamedTuple):
    """The best point ``x`` of each image, its loss, and whether every gradient on the way to it was zero."""

    x: FloatArray
    loss: FloatArray
    flat: BoolArray


def _start(batch: Batch, config: PgdConfig, number: int) -> FloatArray:
    if number == 0:
        return batch.pixels.copy()
    shape = batch.pixels.shape[1:]
    # A generator for each image: its draws depend neither on its neighbours nor on who is finished.
    noise = [np.random.default_rng([config.seed, number, row]).random(shape, dtype=np.float32) for row in batch.rows]
    return batch.pixels + np.float32(config.epsilon) * (2 * np.stack(noise) - 1)


def _lengths(config: PgdConfig, number: int) -> FloatArray:
    """Return the length of each step from one start, ``(steps,)`` float32."""
    last = np.float32(config.step_size)
    return np.linspace(np.float32(config.epsilon) if number else last, last, config.steps, dtype=np.float32)


def _climb(graph: GradientGraph, batch: Batch, config: PgdConfig, number: int) -> _Top:
    radius = np.float32(config.epsilon)
    low, high = np.maximum(batch.pixels - radius, 0), np.minimum(batch.pixels + radius, 1)
    x = np.clip(_start(batch, config, number), low, high)
    best, loss = x.copy(), np.full(len(x), -np.inf, dtype=np.float32)
    flat = np.ones(len(x), dtype=np.bool_)
    for length in (*_lengths(config, number), np.float32(0)):
        here = ascend(graph, config.objective, x, batch)
        better = here.loss > loss
        best[better], loss[better] = x[better], here.loss[better]
        flat &= is_flat(here.gradient)
        x = np.clip(x + length * np.sign(here.gradient), low, high)
    return _Top(best, loss, flat)
