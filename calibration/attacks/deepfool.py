"""DeepFool: the nearest class boundary of the linearised network, again and again, until the label changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, get_args

import numpy as np

from calibration.attacks.attack import (
    Attack,
    Batch,
    Crafted,
    FloatArray,
    IntArray,
    Succeeded,
    check_count,
    check_finite,
    is_flat,
)
from calibration.attacks.norms import Budget, Norm, lengths, per_image
from calibration.gradients import GradientGraph
from runtime.errors import UsageError

_ROUNDING = np.float32(1e-6)
"""Share of the largest logit below which float32 cannot tell two logits apart."""

_FARTHEST = np.float32(1e30)
"""Stands for a boundary that the linearised network does not have: finite, so that 0 times it is 0."""


class _Linear(NamedTuple):
    """The network linearised at a point, for m wrong classes.

    ``gaps`` are |z_y − z_k|, ``(n, m)``; ``slopes`` are ∇(z_k − z_y), ``(n, m, C, H, W)``.
    """

    gaps: FloatArray
    slopes: FloatArray


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack[GradientGraph]):
    """Steps to the nearest boundary between the true label and another one, as the linearised network has it.

    At x_i every wrong class k has a boundary at distance |z_y − z_k| / ‖∇(z_k − z_y)‖_q, q dual to the norm (L1 for
    L-infinity, L2 for L2). The step r_i is the shortest one to the nearest of them. The attack is done at the first
    step after which the point with overshoot, clip(x_0 + (1 + η)·(x_{i+1} − x_0), 0, 1), has another label than the
    true one; that point is what it returns, as the network itself just judged it.

    The paper knows no limits of pixels. Here every x_i is clipped to [0, 1], and from the second step on a pixel that
    lies at a limit and would have to pass it takes no part in the linearised problem: else ever larger shares of each
    step are cut off, and the steps shrink short of the boundary (on a network with a gradient lock, 36 % of the images
    crossed it in 50 L2 steps, instead of all). The first step is the paper's own: made longer in this way it would
    leave 11 to 24 % more distortion. An image whose label never changes keeps the last point tried.

    A class that is nearest late is nearest in its logit already, so the first step looks at `candidates` classes and
    later ones at `followed`. An image costs one row of the Jacobian for each of them and one for its label.

    Attributes:
        norm: Which distance is kept small.
        overshoot: η, at least 0.
        steps: Most steps, at least 1.
        step_size: Share of the way to the boundary that one step goes, in (0, 1]. The paper goes all of it. On the
            network of Table 1, 0.7 leaves 11 to 13 % less distortion for 1.5 times the gradients.
        candidates: How many wrong classes the first step looks at, those with the largest logits; None means all.
        followed: The same for later steps, with the logits of the last point with overshoot.
        of: The logits tensor under attack.

    Raises:
        UsageError: A value is out of range.

    Source: Moosavi-Dezfooli et al. 2016, algorithm 2 (L2) and section 3.3 (other norms); equation 3 of the paper, which
        evaluates the L-infinity version.
    """

    name: ClassVar[str] = "deepfool"
    norm: Norm = "linf"
    overshoot: float = 0.02
    steps: int = 50
    step_size: float = 1.0
    candidates: int | None = 10
    followed: int = 2
    of: str = "logits"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.norm not in get_args(Norm):
            raise UsageError(f"expected norm as {' or '.join(get_args(Norm))}, got {self.norm!r}")
        if not 0 <= self.overshoot < np.inf:
            raise UsageError(f"expected overshoot as a finite number of at least 0, got {self.overshoot}; try 0.02")
        if not 0 < self.step_size <= 1:
            raise UsageError(f"expected step_size in (0, 1], got {self.step_size}; 1 goes all the way to the boundary")
        check_count("steps", self.steps)
        check_count("followed", self.followed)
        if self.candidates is not None:
            check_count("candidates", self.candidates)

    @property
    def reads(self) -> tuple[str, ...]:
        """The logits tensors it needs of its victim."""
        return (self.of,)

    def _craft(self, victim: GradientGraph, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        pixels, labels = batch.pixels, batch.classes["labels"]
        x, x_adv = pixels.copy(), pixels.copy()
        gradients = np.zeros(len(x), dtype=np.int64)
        flat = np.zeros(len(x), dtype=np.bool_)
        logits = victim.logits(pixels)[self.of]
        going = np.flatnonzero(logits.argmax(axis=1) == labels)
        stretch = np.float32(1 + self.overshoot)
        for step in range(self.steps):
            if not len(going):
                break
            rows = _rank(logits[going], labels[going], self._width(step, logits.shape[1]))
            linear = self._linearise(victim, x[going], rows)
            if step:
                _pin(linear.slopes, x[going])
            else:
                flat[going] = is_flat(linear.slopes)
            moved = np.clip(x[going] + np.float32(self.step_size) * self._shortest(linear), 0, 1)
            still = np.all(moved == x[going], axis=(1, 2, 3))
            gradients[going] += rows.shape[1]
            x[going] = moved
            x_adv[going] = np.clip(pixels[going] + stretch * (moved - pixels[going]), 0, 1)
            logits[going] = victim.logits(x_adv[going])[self.of]
            going = going[(logits[going].argmax(axis=1) == labels[going]) & ~still]
        return Crafted(x=x_adv, gradients=gradients, flat=flat)

    def _width(self, step: int, classes: int) -> int:
        """Return how many wrong classes a step looks at."""
        asked = self.followed if step else self.candidates
        return classes - 1 if asked is None else min(asked, classes - 1)

    def _linearise(self, victim: GradientGraph, x: FloatArray, rows: IntArray) -> _Linear:
        """Linearise at `x` for the classes `rows`, ``(n, 1 + m)``, the true label first."""
        logits, jacobians = victim.logits_and_jacobian(x, classes=rows)
        jacobian = jacobians[self.of]
        check_finite(jacobian)
        chosen = np.take_along_axis(logits[self.of], rows, axis=1)
        # On the boundary itself, or so near that the step is lost in rounding, it still has to be crossed.
        least = _ROUNDING * np.abs(chosen).max(axis=1, keepdims=True)
        gaps = np.maximum(np.abs(chosen[:, :1] - chosen[:, 1:]), least)
        return _Linear(gaps, jacobian[:, 1:] - jacobian[:, :1])

    def _shortest(self, linear: _Linear) -> FloatArray:
        """Return the shortest step to the nearest boundary, ``(n, C, H, W)``; zero where there is none."""
        count, width = linear.gaps.shape
        slopes = linear.slopes.reshape(count * width, *linear.slopes.shape[2:])
        distances = np.minimum(linear.gaps.reshape(-1) / np.maximum(self._dual(slopes), 1 / _FARTHEST), _FARTHEST)
        distances = distances.reshape(count, width)
        nearest = distances.argmin(axis=1)
        every = np.arange(count)
        direction = Budget(epsilon=1, norm=self.norm).steepest(linear.slopes[every, nearest])
        step: FloatArray = per_image(distances[every, nearest]) * direction
        return step

    def _dual(self, slopes: FloatArray) -> FloatArray:
        """Return the dual norm of each slope ``(n, C, H, W)``, ``(n,)``."""
        # Scaled first: the squares of tiny slopes underflow.
        largest = np.abs(slopes).max(axis=(1, 2, 3))
        scaled = slopes / per_image(np.where(largest > 0, largest, 1))
        dual: FloatArray = largest * (np.abs(scaled).sum(axis=(1, 2, 3)) if self.norm == "linf" else lengths(scaled))
        return dual


def _rank(logits: FloatArray, labels: IntArray, width: int) -> IntArray:
    """Return each image's label and its `width` wrong classes with the largest logits, ``(n, 1 + width)``."""
    order = logits.copy()
    order[np.arange(len(labels)), labels] = np.inf
    return np.argsort(-order, axis=1, kind="stable")[:, : 1 + width]


def _pin(slopes: FloatArray, x: FloatArray) -> None:
    """Set to zero, in place, the slopes along which a pixel of `x` could only leave [0, 1]."""
    low, high = (x <= 0)[:, None], (x >= 1)[:, None]
    slopes[(low & (slopes < 0)) | (high & (slopes > 0))] = 0
