"""Auto-PGD: projected gradient descent with momentum that chooses the length of its steps by itself.

Steps begin at the diameter of the ball. At checkpoints an image whose loss rose too seldom, or whose best point has not
changed since the last one, goes on from its best point with steps half as long. What remains to be chosen is how many
gradients to spend.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from calibration.attacks.norms import Budget, Norm, per_image
from calibration.attacks.starts import random_points
from calibration.gradients import GradientGraph
from calibration.objectives import CROSS_ENTROPY, CrossEntropy
from calibration.objectives.margin import decides
from runtime.errors import UsageError

_MOMENTUM = np.float32(0.75)
"""Alpha, the share of a new step; the rest is the step before."""

_RISES = 0.75
"""Rho, the share of steps between two checkpoints that must raise the loss."""

_WIDE, _SHRUNK, _BALLS, _LEAST_STEPS = 0.3, 0.9, 10, 3
"""A shrinking ball stays at its widest for the first share of the steps and is down to its last radius at the second;
in between, so many smaller ones, each for so many steps at least. What it finds: docs/attacks.md."""

_WIDEST = 1000

_EARLY = (0, 1, 2, 4, 8, 16)
"""Steps before the first checkpoint after which success is looked for too: most images that fall, fall early."""


class Stage(NamedTuple):
    """Some steps within one ball.

    Attributes:
        budget: The ball around an image.
        steps: How many.
    """

    budget: Budget
    steps: int


@dataclass(frozen=True, kw_only=True)
class Apgd(LossAttack):
    """The point with the greatest loss that self-adapting steps from several starts come by.

    Attributes:
        epsilon: Radius of the ball, in [0, 1] for L-infinity, at least 0 for L2.
        norm: ``linf`` steps along the sign of the gradient, ``l2`` along the gradient.
        widest: Radius of a wider ball, as a multiple of `epsilon`, from 1 to 1000. Above 1 every start is followed by
            another, in the wider ball, which shrinks to `epsilon` in stages, each of which begins where the one before
            was best; 5 steps at least, fewer climb inside only. 0 takes 3 for L2, where steps inside can miss what
            lies behind a plateau, and 1 for L-infinity.
        steps: Number of steps of each climb, at least 1; each takes a gradient, and the start of each stage one more.
        restarts: Number of starts, at least 1: the image itself, then uniformly random points of the ball, the same
            whatever the batch size.
        all_targets: Whether a targeted objective tries every wrong label from each start, the one with the greatest
            loss first: that at the image, which takes a gradient for each label, then that of the starts before.
        seed: Seed of the random starts, at least 0.

    Raises:
        UsageError: A value is out of range, or `all_targets` without a targeted objective.

    Source: Croce & Hein 2020 (Reliable evaluation of adversarial robustness), sections 3 and 4, algorithm 1, with its
        α, ρ and checkpoints. There all starts are random. After a return to the best point there is no step before, so
        the momentum begins anew. A ball that shrinks, in three stages, is what Croce & Hein 2021 (Mind the box) do
        for L1.
    """

    name: ClassVar[str] = "apgd"
    epsilon: float
    norm: Norm = "linf"
    widest: float = 0.0
    steps: int = 100
    restarts: int = 5
    all_targets: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        _ = self.budget
        if not self.widest:
            object.__setattr__(self, "widest", 3.0 if self.norm == "l2" else 1.0)
        if not 1 <= self.widest <= _WIDEST:
            raise UsageError(f"expected widest as a multiple of epsilon from 1 to {_WIDEST}, got {self.widest}")
        check_count("steps", self.steps)
        check_count("restarts", self.restarts)
        check_count("seed", self.seed, least=0)
        if self.all_targets and self.objective == CROSS_ENTROPY:
            object.__setattr__(self, "objective", CrossEntropy(targeted=True))
        if self.all_targets and self.objective.inputs != ("targets",):
            raise UsageError(f"expected a targeted objective for all_targets, got {self.objective}; choose one")

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it must be told of each image."""
        return ("labels",) if self.all_targets else self.objective.inputs

    @property
    def aims(self) -> bool:
        """Whether its objective has to be one of targets."""
        return self.all_targets

    @property
    def budget(self) -> Budget:
        """The ball around an image that it stays in."""
        return Budget(epsilon=self.epsilon, norm=self.norm)

    @property
    def climbs(self) -> tuple[tuple[Stage, ...], ...]:
        """What is done from each start: the balls to climb in, one after the other, the last of which is `budget`."""
        inside = (Stage(self.budget, self.steps),)
        balls = min(_BALLS, int((_SHRUNK - _WIDE) * self.steps) // _LEAST_STEPS)
        if self.widest == 1 or not balls:
            return (inside,)
        ends = [0, *np.linspace(_WIDE, _SHRUNK, balls + 1), 1]
        steps = np.diff(np.floor(np.round(np.multiply(ends, self.steps), 6)).astype(int))
        radii = self.epsilon * np.linspace(self.widest, 1, balls + 2)
        largest = 1.0 if self.norm == "linf" else np.inf
        wide = [replace(self.budget, epsilon=min(float(radius), largest)) for radius in radii[:-1]]
        from_outside = (Stage(*one) for one in zip([*wide, self.budget], map(int, steps), strict=True))
        return inside, tuple(from_outside)

    def _craft(self, victim: GradientGraph, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        top = _Top(batch, succeeded)
        losses = self._first_losses(victim, batch, top) if self.all_targets else None
        for number in range(self.restarts):
            goals = [batch.classes] if losses is None else _goals(losses)
            for goal in goals:
                if not len(top.going):
                    break
                reached = self._climb(victim, batch, top, goal, number)
                if losses is not None:
                    here = np.arange(len(losses)), goal["targets"]
                    losses[here] = np.maximum(losses[here], reached)
        return Crafted(x=top.x, gradients=top.gradients, flat=top.flat)

    def _first_losses(self, graph: GradientGraph, batch: Batch, top: _Top) -> FloatArray:
        """Return the loss of each target at the image, ``(n, K)``, minus infinity for the true label."""
        labels = batch.classes["labels"]
        count = graph.classes[self.reads[0]]
        losses = np.full((len(labels), count), -np.inf, dtype=np.float32)
        for target in range(count):
            rows = np.flatnonzero(labels != target)
            if len(rows):
                goal = {"targets": np.full(len(rows), target)}
                aim = Batch(rows=batch.rows[rows], pixels=batch.pixels[rows], classes=goal)
                losses[rows, target] = self.ascend(graph, aim.pixels, aim).loss
        top.gradients += count - 1
        return losses

    def _climb(
        self, graph: GradientGraph, batch: Batch, top: _Top, goal: dict[str, IntArray], number: int
    ) -> FloatArray:
        """Climb from one start of each image that still goes, towards one goal, and keep the best points in `top`.

        Returns:
            The greatest loss on the way within `budget`, ``(n,)``, minus infinity for images that did not climb.
        """
        aim = Batch(rows=batch.rows, pixels=batch.pixels, classes=goal)
        reached = np.full(len(batch.rows), -np.inf, dtype=np.float32)
        for stages in self.climbs:
            x = random_points(batch, stages[0].budget, seed=(self.seed, number)) if number else batch.pixels
            for budget, steps in stages:
                if not len(top.going):
                    return reached
                climb = _Climb(budget, batch.pixels, budget.project(x, batch.pixels), top.going)
                self._steps(graph, aim, top, climb, steps)
                x = climb.best
            reached = np.maximum(reached, climb.best_loss)
        return reached

    def _steps(self, graph: GradientGraph, aim: Batch, top: _Top, climb: _Climb, steps: int) -> None:
        """Take the steps of one stage."""
        marks = (0, *checkpoints(steps))
        looks = {*_EARLY, *marks, steps}
        for step in range(steps + 1):
            here = self.ascend(graph, climb.x[climb.rows], aim.take(climb.rows))
            top.count(climb.rows, is_flat(here.gradient))
            climb.arrive(here.loss, here.gradient)
            decided = decides(self.objective, here.logits, aim.take(climb.rows).classes)
            top.offer(climb, climb.rows[decided], self.budget)
            climb.rows = top.going
            if step in looks:
                top.keep(climb, self.budget)
                climb.rows = top.going
            if step in marks:
                climb.reconsider(step - marks[max(marks.index(step) - 1, 0)])
            if step == steps or not len(climb.rows):
                break
            climb.step()


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return the steps after which the length of the next ones is reconsidered, ascending."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # Rounded first: 0.22 · 100 is a little more than 22 in binary.
    found = {int(np.ceil(round(share * steps, 6))) for share in shares[1:]}
    return tuple(sorted(step for step in found if step < steps))


def _goals(losses: FloatArray) -> list[dict[str, IntArray]]:
    """Return the wrong labels as targets, for each image that of the greatest loss, ``(n, K)``, first."""
    order = np.argsort(-losses, axis=1, kind="stable")
    return [{"targets": order[:, place]} for place in range(losses.shape[1] - 1)]


class _Top:
    """The best point of each image of a batch over all starts, and which images still go."""

    def __init__(self, batch: Batch, succeeded: Succeeded | None) -> None:
        """Begin with the images."""
        count = len(batch.rows)
        self.batch, self.succeeded = batch, succeeded
        self.x = batch.pixels.copy()
        self.loss, self.offered = np.full((2, count), -np.inf, dtype=np.float32)
        self.gradients = np.zeros(count, dtype=np.int64)
        self.flat = np.ones(count, dtype=np.bool_)
        self.going = np.arange(count)

    def count(self, rows: IntArray, flat: BoolArray) -> None:
        """Count a gradient of the images at `rows`, and where it was zero in every pixel."""
        self.gradients[rows] += 1
        self.flat[rows] &= flat

    def offer(self, climb: _Climb, rows: IntArray, budget: Budget) -> None:
        """Keep the points where the images at `rows` are now if they succeed, though the loss be greater elsewhere.

        Only points of a greater loss than those offered before are tried.
        """
        rows = rows[climb.loss[rows] > self.offered[rows]]
        if self.succeeded is None or not len(rows):
            return
        self.offered[rows] = climb.loss[rows]
        points = budget.project(climb.x[rows], self.batch.pixels[rows])
        done = self.succeeded(points, self.batch.rows[rows])
        self.x[rows[done]] = points[done]
        self.going = np.setdiff1d(self.going, rows[done])

    def keep(self, climb: _Climb, budget: Budget) -> None:
        """Keep the points of a climb that are better, and those that succeed, whose images are done.

        Points outside the budget are judged by what they become inside, and kept if that succeeds; the loss kept with
        them is that outside.
        """
        rows = climb.rows[climb.fresh[climb.rows]]
        climb.fresh[rows] = False
        inside = climb.budget == budget
        points = climb.best[rows] if inside else budget.project(climb.best[rows], self.batch.pixels[rows])
        kept = climb.best_loss[rows] > self.loss[rows] if inside else np.zeros(len(rows), dtype=np.bool_)
        done = np.zeros_like(kept)
        if self.succeeded is not None and len(rows):
            done = self.succeeded(points, self.batch.rows[rows])
        kept |= done
        self.x[rows[kept]], self.loss[rows[kept]] = points[kept], climb.best_loss[rows[kept]]
        self.going = np.setdiff1d(self.going, rows[done])


class _Climb:
    """Where each image of a batch stands on its way up from one start; `rows` still climb."""

    def __init__(self, budget: Budget, center: FloatArray, start: FloatArray, rows: IntArray) -> None:
        """Begin at `start`, ``(n, C, H, W)``, with steps as long as the ball around `center` is wide."""
        count = len(start)
        self.budget, self.center, self.rows = budget, center, rows
        self.x, self.last, self.best = start.copy(), start.copy(), start.copy()
        self.gradient, self.best_gradient = np.zeros_like(start), np.zeros_like(start)
        self.loss = np.full(count, np.inf, dtype=np.float32)
        self.best_loss, self.marked_loss = np.full((2, count), -np.inf, dtype=np.float32)
        self.length = np.full(count, 2 * budget.epsilon, dtype=np.float32)
        self.rises = np.zeros(count, dtype=np.int64)
        self.halved = np.zeros(count, dtype=np.bool_)
        self.resting = np.ones(count, dtype=np.bool_)
        self.fresh = np.zeros(count, dtype=np.bool_)

    def arrive(self, loss: FloatArray, gradient: FloatArray) -> None:
        """Note the loss ``(m,)`` and its gradient ``(m, C, H, W)`` where the images at `rows` are."""
        rows = self.rows
        self.rises[rows] += loss > self.loss[rows]
        self.loss[rows], self.gradient[rows] = loss, gradient
        better = loss > self.best_loss[rows]
        top = rows[better]
        self.best[top], self.best_loss[top], self.best_gradient[top] = self.x[top], loss[better], gradient[better]
        self.fresh[top] = True

    def reconsider(self, steps: int) -> None:
        """Halve the steps of images that did badly in the last `steps`, and return them to their best points."""
        rows = self.rows
        seldom = self.rises[rows] < _RISES * steps
        still = ~self.halved[rows] & (self.best_loss[rows] == self.marked_loss[rows])
        self.halved[rows] = seldom | still
        back = rows[self.halved[rows]]
        self.length[back] /= 2
        self.x[back], self.loss[back], self.gradient[back] = (
            self.best[back],
            self.best_loss[back],
            self.best_gradient[back],
        )
        self.resting[back] = True
        self.marked_loss[rows], self.rises[rows] = self.best_loss[rows], 0

    def step(self) -> None:
        """Go along the gradient, and, unless the image comes from rest, on in the direction of the step before."""
        rows = self.rows
        x, center = self.x[rows], self.center[rows]
        ahead = x + per_image(self.length[rows]) * self.budget.steepest(self.gradient[rows])
        ahead = self.budget.project(ahead, center)
        carried = x + _MOMENTUM * (ahead - x) + (1 - _MOMENTUM) * (x - self.last[rows])
        resting = per_image(self.resting[rows])
        self.last[rows] = x
        self.x[rows] = np.where(resting, ahead, self.budget.project(carried, center))
        self.resting[rows] = False
