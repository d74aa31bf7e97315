"""The shortest change of an image that reaches a margin: a walk on spheres around the image of the right radius.

Each step goes along a gradient and back to a sphere, so that it rests where the change is parallel to the gradient on
every pixel that is free to move; the radius takes a Newton step towards the margin. Rounds after the first begin
halfway back to the image, where other ways out open.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from calibration.attacks.attack import BoolArray, FloatArray, IntArray, is_flat
from calibration.attacks.norms import lengths, per_image

_DECIDED = np.float32(1e-5)
"""Least margin that counts as reached, relative to the scale of the logits: below it, float32 rounding in another batch
may decide otherwise."""

_BEYOND = np.float32(1e-4)
"""How far beyond κ a Newton step aims, relative to the same, so that it lands on the right side."""

_AGAIN = np.float32(0.5)
"""Share of the best change at which the next round starts."""

_SETTLED = 0.025
"""Share of the first step that the last step of a round has; the same for the radius."""

_NEWTON = 0.1
"""Most that a Newton step changes the radius by at the beginning of a round, relative to it."""

_WORTH = 0.01
"""Relative gain below which a round was one too many."""

_FIRST = 1 / 8
"""Most root mean square change of a pixel, 32 grey levels, that the first radius is trusted with."""

_TINY = np.float32(1e-12)


class Plan(Protocol):
    """What a search is told; see `CarliniWagner`."""

    @property
    def confidence(self) -> float:
        """The margin to reach."""

    @property
    def rounds(self) -> int:
        """How often to look."""

    @property
    def steps(self) -> int:
        """Steps of a round."""

    @property
    def search(self) -> int:
        """Steps after which a search without success is given up."""

    @property
    def step_size(self) -> float:
        """First step of a round, relative to the length of the change."""

    @property
    def growth(self) -> float:
        """Most that the radius grows by in a step before the first success, relative to it."""

    @property
    def abort_early(self) -> bool:
        """Whether a round that gained little is the last."""


class Search:
    """Where the images of a batch stand; one row for each image, and steps for those still `going`.

    Attributes:
        best: The nearest points that reach the margin, the images where none does, ``(n, C, H, W)``.
        gradients: How many gradients each image took, ``(n,)``.
        flat: Where every gradient was zero in every pixel, ``(n,)``.
        going: The images that are not done, ``(m,)`` integers in [0, n).
    """

    def __init__(self, plan: Plan, pixels: FloatArray, start: FloatArray, scale: FloatArray) -> None:
        """Search around `pixels` from `start` on, both ``(n, C, H, W)``; logits differ by `scale`, ``(n,)``."""
        count = len(pixels)
        self.plan, self.pixels, self.scale = plan, pixels, scale
        self.change = start - pixels
        self.best = pixels.copy()
        self.length = np.full(count, np.inf, dtype=np.float32)
        self.goal = np.full(count, np.inf, dtype=np.float32)
        self.found = np.zeros(count, dtype=np.bool_)
        self.age, self.round, self.gradients = np.zeros((3, count), dtype=np.int64)
        self.flat = np.ones(count, dtype=np.bool_)
        self.going = np.arange(count)

    def points(self) -> FloatArray:
        """Return the points to look at, ``(m, C, H, W)`` in [0, 1]."""
        found: FloatArray = np.clip(self.pixels[self.going] + self.change[self.going], 0, 1)
        return found

    def step(self, margin: FloatArray, gradient: FloatArray) -> None:
        """Take one step with the margins ``(m,)`` and the gradients to go along, ``(m, C, H, W)``, at `points`."""
        rows = self.going
        self.gradients[rows] += 1
        self.flat[rows] &= is_flat(gradient)
        self._keep(rows, margin)
        self._move(rows, margin, gradient)
        self.age[rows] += self.found[rows] | (self.round[rows] > 0)
        self._turn(rows)

    def _keep(self, rows: IntArray, margin: FloatArray) -> None:
        """Note which points are a success, and keep those nearer than the best so far."""
        reached = margin >= np.maximum(self.plan.confidence, _DECIDED * self.scale[rows])
        length = lengths(self.change[rows])
        nearer = reached & (length < self.length[rows])
        kept = rows[nearer]
        self.best[kept] = np.clip(self.pixels[kept] + self.change[kept], 0, 1)
        self.length[kept] = length[nearer]
        self.found[rows] |= reached

    def _move(self, rows: IntArray, margin: FloatArray, gradient: FloatArray) -> None:
        """Step along the gradient, then to the sphere whose radius is likely to be the right one."""
        change, pixels = self.change[rows], self.pixels[rows]
        free = np.where(gradient < 0, pixels + change > 0, pixels + change < 1)
        direction, slope = _direction(np.where(free, gradient, 0))
        share = self._share(rows)
        lacking = self.plan.confidence + _BEYOND * self.scale[rows] - margin
        radius = self._radius(rows, lacking, direction, slope, share)
        change = change + direction * per_image(np.float32(self.plan.step_size) * share * radius)
        self.change[rows] = _to_sphere(change, radius, pixels)

    def _share(self, rows: IntArray) -> FloatArray:
        """Return the next step as a share of the first one of its round, ``(m,)``."""
        searching = ~self.found[rows] & (self.round[rows] == 0)
        done = np.where(searching, self.gradients[rows] / self.plan.search, self.age[rows] / self.plan.steps)
        cosine = (1 + np.cos(np.pi * np.minimum(done, 1))) / 2
        share: FloatArray = (_SETTLED + (1 - _SETTLED) * cosine).astype(np.float32)
        return share

    def _radius(
        self, rows: IntArray, lacking: FloatArray, direction: FloatArray, slope: FloatArray, share: FloatArray
    ) -> FloatArray:
        """Return the next radius: a Newton step, bounded, on the margin as a function of it, ``(m,)``."""
        change = self.change[rows]
        length = lengths(change)
        along = np.einsum("nchw,nchw->n", direction, change) / np.maximum(length, _TINY)
        newton = lacking / np.maximum(slope * np.maximum(along, 0.2), _TINY)
        bound = np.where(self.found[rows], _NEWTON * share, self.plan.growth)
        least = np.where(self.found[rows], -bound, np.minimum(0.02, bound))
        radius = length * (1 + np.clip(newton / np.maximum(length, _TINY), least, bound))
        first = np.minimum(lacking / np.maximum(slope, _TINY), _FIRST * np.sqrt(change[0].size))
        found: FloatArray = np.where(length > 0, radius, np.maximum(first, 0)).astype(np.float32)
        return found

    def _turn(self, rows: IntArray) -> None:
        """End the rounds that are over, and begin the next ones from half the best change."""
        plan = self.plan
        stuck = (self.length[rows] == 0) | self._lost(rows)
        over = self.age[rows] >= plan.steps
        ended = rows[over & ~stuck]
        worth = (self.length[ended] < (1 - _WORTH) * self.goal[ended]) | (not plan.abort_early)
        self.round[ended] += 1
        again = ended[worth & (self.round[ended] < plan.rounds)]
        self.goal[again] = self.length[again]
        self.age[again], self.found[again] = 0, False
        self.change[again] = _AGAIN * (self.best[again] - self.pixels[again])
        done = np.setdiff1d(np.union1d(rows[stuck], ended), again)
        self.going = np.setdiff1d(rows, done)

    def _lost(self, rows: IntArray) -> BoolArray:
        """Return which images were searched in vain, or have no direction to leave in."""
        nowhere = ~self.change[rows].reshape(len(rows), -1).any(axis=1)
        found = self.found[rows] | (self.round[rows] > 0)
        lost: BoolArray = nowhere | (~found & (self.gradients[rows] >= self.plan.search))
        return lost


def _direction(gradient: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return gradients ``(m, C, H, W)`` at length 1, and their lengths ``(m,)``; zero stays zero."""
    # Scaled first: the squares of tiny gradients underflow.
    largest = np.abs(gradient).max(axis=(1, 2, 3), initial=0)
    scaled = gradient / per_image(np.where(largest > 0, largest, 1).astype(np.float32))
    size = np.maximum(lengths(scaled), _TINY)
    return scaled / per_image(size), largest * size


def _to_sphere(change: FloatArray, radius: FloatArray, pixels: FloatArray) -> FloatArray:
    """Return changes of length `radius` in the box, ``(m, C, H, W)``, as nearly as three rescalings get."""
    low, high = -pixels, 1 - pixels
    found: FloatArray = np.clip(change, low, high)
    for _ in range(3):
        factor = (radius / np.maximum(lengths(found), _TINY)).astype(np.float32)
        found = np.clip(found * per_image(factor), low, high)
    return found
