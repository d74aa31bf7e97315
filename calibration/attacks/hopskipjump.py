"""HopSkipJump: along the decision boundary towards the image, knowing nothing but accepted-and-wrong or not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from calibration.attacks.attack import Attack, Batch, BoolArray, Crafted, FloatArray, IntArray, Succeeded, check_count
from calibration.attacks.deployed import LEVEL, Deployed, check_images, round_to_levels, round_within
from calibration.attacks.norms import Budget, Norm, lengths, per_image
from calibration.attacks.starts import generators
from runtime.errors import UsageError

_PROBES_AT_ONCE = 128
_ROUNDING = 1e-6

_TRIAL = 20
_SCARCE = 0.1
"""Share of probes that succeed below which an estimate tells little: half of them would at a smooth boundary."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack[Deployed]):
    """The nearest image found that a deployed guard accepts under a wrong label.

    From an accepted wrong image far away: search the boundary between it and the image, estimate the direction across
    it from random probes, step along that while a wrong label is accepted, and again. Only this one bit is read.

    Three things differ from the source, because a camera rounds and a guard rejects; without them the attack stands
    still, which would look like robustness.
    - A probe of the source is far shorter than a grey level and would be rounded away. Here it moves a pixel by
      `probe_levels`, and the direction is estimated from what was really shown.
    - Once hardly any probe of an image is accepted, they leave pixels alone that are as good as black or white, unless
      all are: clipped noise only brightens a black background, and a guard that rejects that answers nothing else.
    - The source starts at uniform noise, which a guard hardly ever accepts. Here the start is the nearest image of
      another class in the victim's gallery; failing that, noise in coarse black and white blocks takes turns with
      uniform noise.

    It judges success by the verdicts alone; `succeeded` is not asked.

    Attributes:
        queries: Most decisions asked for per image, at least 1.
        norm: The distance that is made small, ``l2`` or ``linf``.
        epsilon: A radius, in the units of `norm`, within which an image is done. Those that stay outside are projected
            onto the ball at the end, with one query kept for it; where that is not accepted under a wrong label, the
            image itself is returned. None uses all queries and returns what is nearest at any distance.
        probes: B0, the number of probes of the first estimate, at least 1; that of iteration t has B0·√t.
        probe_levels: Standard deviation of a probe in a pixel, in grey levels, above 0 and below 128.
        starts: Most queries spent on finding a start, at least 1. Without one the image itself is returned.
        seed: Seed of starts and probes, at least 0; each image draws the same ones whatever the batch size.

    Raises:
        UsageError: A value is out of range.

    Source: Chen, Jordan and Wainwright 2020 (HopSkipJumpAttack), algorithms 1 and 2, sections 3 and 4.
    """

    name: ClassVar[str] = "hopskipjump"
    asks: ClassVar[bool] = True
    queries: int = 5000
    norm: Norm = "l2"
    epsilon: float | None = None
    probes: int = 100
    probe_levels: float = 4.0
    starts: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("queries", "probes", "starts"):
            check_count(name, getattr(self, name))
        check_count("seed", self.seed, least=0)
        if not 0 < self.probe_levels < 128:
            raise UsageError(f"expected probe_levels above 0 and below 128, got {self.probe_levels}; see its unit")
        _ = Budget(epsilon=self.epsilon or 0, norm=self.norm)

    @property
    def reads(self) -> tuple[str, ...]:
        """The logits tensor whose width is the number of classes."""
        return ("logits",)

    @property
    def budget(self) -> Budget | None:
        """The ball around an image that it stays in; None where it has none."""
        return None if self.epsilon is None else Budget(epsilon=self.epsilon, norm=self.norm)

    def _craft(self, victim: Deployed, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        check_images(batch.pixels)
        walk = _Walk(self, victim, batch)
        walk.start()
        walk.search_boundary(walk.going())
        walk.try_probes(walk.going())
        for iteration in itertools.count(1):
            going = walk.going()
            if not len(going):
                break
            walk.step(going, iteration)
            walk.search_boundary(walk.going())
        return Crafted(x=walk.finish(), queries=walk.queries)


class _Walk:
    """The state of a batch, one row per image.

    Attributes:
        x: Where the walk stands, ``(n, C, H, W)``: accepted and wrong, wherever a start was found.
        nearest: The nearest accepted wrong image that was shown; the image under attack where there is none.
        distance: How far away that is, ``(n,)``; infinite where there is none.
        queries: Decisions asked for, ``(n,)``.
    """

    def __init__(self, attack: HopSkipJump, victim: Deployed, batch: Batch) -> None:
        self._attack, self._victim, self._labels = attack, victim, batch.classes["labels"]
        self._center, self._rngs = batch.pixels, generators(batch, seed=(attack.seed,))
        self._limit = attack.queries - (attack.epsilon is not None)  # one is left for the projection at the end
        self._goal = 0.0 if attack.epsilon is None else attack.epsilon + _ROUNDING
        self.x, self.nearest = batch.pixels.copy(), batch.pixels.copy()
        self.distance = np.full(len(self.x), np.inf, dtype=np.float32)
        self.queries = np.zeros(len(self.x), dtype=np.int64)
        self._everywhere = np.ones(len(self.x), dtype=np.bool_)

    def going(self) -> IntArray:
        """Return which images have a start, a distance still to go, and queries left to do it."""
        open_ = (self.distance > self._goal) & np.isfinite(self.distance)
        return np.flatnonzero(open_ & (self.queries < self._limit))

    def start(self) -> None:
        """Show the image itself, then possible starts, until something is accepted under a wrong label."""
        tries = [self._tries(image) for image in range(len(self.x))]
        searching = np.arange(len(self.x))
        for _ in range(self._attack.starts + 1):
            searching = searching[self.queries[searching] < self._limit]
            if not len(searching):
                break
            tried = np.stack([next(tries[image]) for image in searching])
            searching = searching[~self._show(tried, searching)]

    def search_boundary(self, going: IntArray) -> None:
        """Bisect between image and walk, until half a grey level is left (algorithm 1)."""
        far, center = self.x[going], self._center[going]
        low, high = np.zeros_like(far[:, 0, 0, 0]), np.ones_like(far[:, 0, 0, 0])
        while len(rows := self._worth_asking(going, (high - low) * _furthest(far - center))):
            middle = (low[rows] + high[rows]) * np.float32(0.5)
            hit = self._show(self._blend(center[rows], far[rows], middle), going[rows])
            low[rows], high[rows] = np.where(hit, low[rows], middle), np.where(hit, middle, high[rows])

    def try_probes(self, going: IntArray) -> None:
        """Find out with a few probes whether they can be everywhere; a whole estimate would be much to lose."""
        for image in going:
            self._estimate(image, int(min(_TRIAL, self._limit - self.queries[image])))

    def step(self, going: IntArray, iteration: int) -> None:
        """Go along the estimated direction, half as far until a wrong label is accepted there."""
        root = np.sqrt(np.float32(iteration))
        counts = np.minimum(round(self._attack.probes * float(root)), self._limit - self.queries[going])
        direction = np.stack([self._estimate(image, int(count)) for image, count in zip(going, counts, strict=True)])
        start, length = self.x[going], self._measure(self.x[going] - self._center[going]) / root
        while len(rows := self._worth_asking(going, length * _furthest(direction))):
            tried: FloatArray = np.clip(start[rows] + per_image(length[rows]) * direction[rows], 0, 1)
            hit = self._show(round_to_levels(tried), going[rows])
            length[rows] *= np.where(hit, np.float32(0), np.float32(0.5))

    def finish(self) -> FloatArray:
        """Return the nearest images, inside the ball where there is one, ``(n, C, H, W)``."""
        budget = self._attack.budget
        if budget is None:
            return self.nearest
        outside = np.flatnonzero((self.distance > self._goal) & np.isfinite(self.distance))
        if len(outside):
            center = self._center[outside]
            self._show(round_within(self.nearest[outside], center, budget), outside)
        failed = self.distance > self._goal
        self.nearest[failed] = self._center[failed]
        return self.nearest

    def _show(self, tried: FloatArray, images: IntArray) -> BoolArray:
        """Ask about one image each, and walk to those that are accepted under a wrong label."""
        hit = self._victim.fooled(tried, self._labels[images])
        self.queries[images] += 1
        distance = self._measure(tried - self._center[images])
        nearer = hit & (distance < self.distance[images])
        self.x[images[hit]] = tried[hit]
        self.nearest[images[nearer]], self.distance[images[nearer]] = tried[nearer], distance[nearer]
        return hit

    def _worth_asking(self, going: IntArray, change: FloatArray) -> IntArray:
        """Return the rows of `going` with queries left and a largest `change`, ``(m,)``, that rounding would show."""
        return np.flatnonzero((change > LEVEL / 2) & (self.queries[going] < self._limit))

    def _estimate(self, image: int, count: int) -> FloatArray:
        """Return the direction in which a wrong label is accepted more often, ``(C, H, W)``, from `count` probes.

        It is the mean of (φ - mean φ) · u over the probes u, φ = ±1; where all φ are alike, φ times the mean of u.
        """
        x, label = self.x[image], self._labels[image : image + 1]
        spread = np.float32(self._attack.probe_levels * LEVEL)
        room = self._everywhere[image] | (x >= spread) & (x <= 1 - spread)
        scale = spread * (room | ~room.any())
        hits, sum_all, sum_hit = 0, np.zeros_like(x), np.zeros_like(x)
        for first in range(0, count, _PROBES_AT_ONCE):
            shape = (min(_PROBES_AT_ONCE, count - first), *x.shape)
            shown = round_to_levels(np.clip(x + scale * self._rngs[image].standard_normal(shape, np.float32), 0, 1))
            hit = self._victim.fooled(shown, label)
            hits += int(hit.sum())
            sum_all += (shown - x).sum(axis=0)
            sum_hit += (shown[hit] - x).sum(axis=0)
        self.queries[image] += count
        share = np.float32(hits / count)
        self._everywhere[image] &= share >= _SCARCE
        mean = sum_hit - share * sum_all if 0 < hits < count else sum_all * (2 * share - 1)
        direction: FloatArray = Budget(epsilon=1, norm=self._attack.norm).steepest(mean[None])[0]
        return direction

    def _tries(self, image: int) -> Iterator[FloatArray]:
        """Yield the image itself, the attacker's own ones of other classes, nearest first, and noise without end."""
        yield self._center[image]
        for place in self._others(image):
            yield self._victim.gallery[place]
        while True:
            yield from _noises(self._rngs[image], self.x.shape[1:])

    def _others(self, image: int) -> IntArray:
        """Return where images of other classes lie in the gallery, the nearest first."""
        others = np.flatnonzero(self._victim.gallery_labels != self._labels[image])
        distance = np.square(self._victim.gallery[others] - self._center[image]).sum(axis=(1, 2, 3))
        return others[np.argsort(distance, kind="stable")]

    def _blend(self, center: FloatArray, far: FloatArray, share: FloatArray) -> FloatArray:
        """Return 8-bit images between two, ``(m, C, H, W)``: at a share, ``(m,)``, of the way, or of the L-inf ball."""
        change = far - center
        if self._attack.norm == "l2":
            return round_to_levels(center + per_image(share) * change)
        reach = per_image(share * _furthest(change))
        return round_to_levels(center + np.clip(change, -reach, reach))

    def _measure(self, change: FloatArray) -> FloatArray:
        """Return the length of changes ``(m, C, H, W)`` in the norm of the attack, ``(m,)``."""
        return lengths(change) if self._attack.norm == "l2" else _furthest(change)


def _noises(rng: np.random.Generator, shape: tuple[int, ...]) -> Iterator[FloatArray]:
    """Yield uniform noise, then black and white blocks, 2 a side, 4, 8 and so on, each `shape`, (C, H, W)."""
    channels, height, width = shape
    yield rng.integers(0, 256, shape).astype(np.float32) / np.float32(255)
    for power in range(1, (min(height, width) - 1).bit_length()):
        blocks = rng.integers(0, 2, (channels, 2**power, 2**power)).astype(np.float32)
        yield blocks[:, np.arange(height)[:, None] * 2**power // height, np.arange(width) * 2**power // width]


def _furthest(change: FloatArray) -> FloatArray:
    """Return the largest change of a pixel, ``(m,)``."""
    largest: FloatArray = np.abs(change).max(axis=(1, 2, 3))
    return largest
