"""Projected gradient descent: iterative gradient sign from several starts, the best point of all of them kept.

The first start is the image, and its steps have one length: that is IGS. The others are random points, and their steps
shrink from the radius of the ball: long ones cross the rugged ground that training against single steps leaves around
an image, short ones settle. Each kind fools images that the other does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from calibration.attacks.attack import (
    Batch,
    BoolArray,
    Crafted,
    FloatArray,
    IntArray,
    LossAttack,
    Succeeded,
    check_count,
    is_flat,
)
from calibration.attacks.norms import Budget, Norm, choose_step_size
from calibration.attacks.starts import random_points
from calibration.gradients import GradientGraph
from calibration.objectives.margin import decides


class _Top(NamedTuple):
    """The best point ``x`` of each image: one that decides if there is any, of those the one with the greatest loss."""

    x: FloatArray
    loss: FloatArray
    decided: BoolArray

    @classmethod
    def of(cls, x: FloatArray) -> _Top:
        """Begin with points that anything is better than."""
        count = len(x)
        return cls(x.copy(), np.full(count, -np.inf, dtype=np.float32), np.zeros(count, dtype=np.bool_))

    def keep(self, rows: IntArray, x: FloatArray, loss: FloatArray, decided: BoolArray) -> None:
        """Keep what is better than the point of its row; `rows` are integers ``(n,)``."""
        better = (decided & ~self.decided[rows]) | ((decided == self.decided[rows]) & (loss > self.loss[rows]))
        kept = rows[better]
        self.x[kept], self.loss[kept], self.decided[kept] = x[better], loss[better], decided[better]


@dataclass(frozen=True, kw_only=True)
class Pgd(LossAttack):
    """The point with the greatest loss that steps from several starts come by; against two heads, where they agree.

    Attributes:
        epsilon: Radius of the ball, in [0, 1] for L-infinity, at least 0 for L2.
        norm: ``linf`` steps along the sign of the gradient, ``l2`` along the gradient.
        step_size: Length of a step; None takes 2.5 · epsilon / steps. From a random start lengths fall evenly from
            `epsilon` to it.
        steps: Number of steps from each start, at least 1; the loss of the last point takes one more gradient.
        restarts: Number of starts, at least 1: the image itself, then uniformly random points of the ball, the same
            whatever the batch size.
        seed: Seed of the random starts, at least 0.

    Raises:
        UsageError: A value is out of range.

    Source: Madry et al. 2018, section 5 and its published code: random starts, the worst of all restarts. Croce and
        Hein 2020 (AutoAttack), section 4, for steps that begin long and shrink.
    """

    name: ClassVar[str] = "pgd"
    epsilon: float
    norm: Norm = "linf"
    step_size: float | None = None
    steps: int = 40
    restarts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges and fill in the step size."""
        check_count("steps", self.steps)
        check_count("restarts", self.restarts)
        check_count("seed", self.seed, least=0)
        object.__setattr__(self, "step_size", choose_step_size(self.step_size, budget=self.budget, steps=self.steps))

    @property
    def budget(self) -> Budget:
        """The ball around an image that it stays in."""
        return Budget(epsilon=self.epsilon, norm=self.norm)

    def _craft(self, victim: GradientGraph, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        top = _Top.of(batch.pixels)
        gradients = np.zeros(len(top.x), dtype=np.int64)
        flat = np.ones(len(top.x), dtype=np.bool_)
        going = np.arange(len(top.x))
        for number in range(self.restarts):
            flat[going] &= self._climb(victim, batch.take(going), number, top, going)
            gradients[going] += self.steps + 1
            if succeeded is not None:
                going = going[~succeeded(top.x[going], batch.rows[going])]
            if not len(going):
                break
        return Crafted(x=top.x, gradients=gradients, flat=flat)

    def _climb(self, graph: GradientGraph, batch: Batch, number: int, top: _Top, rows: IntArray) -> BoolArray:
        """Climb from one start, keep what is better at `rows` of `top`, and return where no gradient led anywhere."""
        budget = self.budget
        x = random_points(batch, budget, seed=(self.seed, number)) if number else batch.pixels
        flat = np.ones(len(x), dtype=np.bool_)
        for length in (*self._lengths(number), np.float32(0)):
            here = self.ascend(graph, x, batch)
            top.keep(rows, x, here.loss, decides(self.objective, here.logits, batch.classes))
            flat &= is_flat(here.gradient)
            x = budget.project(x + length * budget.steepest(here.gradient), batch.pixels)
        return flat

    def _lengths(self, number: int) -> FloatArray:
        """Return the length of each step from one start, ``(steps,)`` float32."""
        last = np.float32(self.step_size)
        return np.linspace(np.float32(self.epsilon) if number else last, last, self.steps, dtype=np.float32)
