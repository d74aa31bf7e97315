"""Square attack: random windows, kept where the verdict comes closer to an accepted wrong label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from calibration.attacks.attack import Attack, Batch, Crafted, FloatArray, IntArray, Succeeded, check_count
from calibration.attacks.deployed import Deployed, check_images, is_fooled
from calibration.attacks.norms import Budget, Norm
from calibration.attacks.square_proposals import L2Squares, LinfSquares
from calibration.attacks.starts import generators
from calibration.attacks.verdict_scores import ScoreArray, signed_confidence, wrong_confidence
from runtime.errors import UsageError
from runtime.verdicts import Verdicts

Score = Literal["confidence", "logits"]
Start = Literal["image", "random"]

_HALVINGS = np.array([10, 50, 200, 1000, 2000, 4000, 6000, 8000]) / 10_000
"""When p is halved, as shares of all queries."""

_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class Square(Attack[Deployed]):
    """Random search over windows for an image that a deployed guard accepts under a wrong label.

    It works with rejection in mind. The score it raises is, with ``confidence``, minus the confidence of the verdict
    while that names the true label, and the confidence once it names a wrong one: down to zero, across, and up until
    the guard accepts. With ``logits``, for devices that show them, it is the logarithm of the confidence that the rule
    would find in the best wrong label, which points the way before the label changes. Equal scores are kept too:
    confidences that float32 rounds to 1 are a plateau, and only who moves on it leaves it.

    An image is done with the first success, judged by the verdicts alone; `succeeded` is not asked. Where there is
    none, the image with the best score is returned.

    Attributes:
        epsilon: Radius of the ball, in [0, 1] for L-infinity, at least 0 for L2.
        norm: ``linf`` or ``l2``.
        queries: Most verdicts asked for per image, at least 1.
        p_init: Share of an image that the first windows cover, in (0, 1]; halved at the paper's shares of `queries`.
        score: What is read from a verdict.
        start: ``image``, or ``random`` as in the source: stripes (L-infinity) or tiles (L2) of random signs. A guard
            that rejects noise rejects those, and the way back to acceptance is longer than the one from the image.
        seed: Seed of all windows, at least 0; each image draws the same ones whatever the batch size.

    Raises:
        UsageError: A value is out of range.

    Source: Andriushchenko et al. 2020 (Square Attack), algorithms 1 to 3 and section 3.
    """

    name: ClassVar[str] = "square"
    asks: ClassVar[bool] = True
    epsilon: float
    norm: Norm = "linf"
    queries: int = 5000
    p_init: float = 0.8
    score: Score = "confidence"
    start: Start = "image"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_count("queries", self.queries)
        check_count("seed", self.seed, least=0)
        if not 0 < self.p_init <= 1:
            raise UsageError(f"expected p_init in (0, 1], got {self.p_init}; it is a share of the image")
        for name, known in (("score", get_args(Score)), ("start", get_args(Start))):
            if getattr(self, name) not in known:
                raise UsageError(f"expected {name} as {' or '.join(known)}, got {getattr(self, name)!r}")
        _ = self.budget

    @property
    def reads(self) -> tuple[str, ...]:
        """The logits tensor whose width is the number of classes."""
        return ("logits",)

    @property
    def budget(self) -> Budget:
        """The ball around an image that it stays in."""
        return Budget(epsilon=self.epsilon, norm=self.norm)

    def _craft(self, victim: Deployed, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        check_images(batch.pixels)
        proposals = LinfSquares(self.epsilon) if self.norm == "linf" else L2Squares(self.epsilon)
        draws = _Draws(batch, seed=self.seed, numbers=proposals.numbers(batch.pixels.shape[1:]))
        x = batch.pixels.copy()
        best = np.full(len(x), -np.inf)
        queries = np.zeros(len(x), dtype=np.int64)
        going = np.arange(len(x))
        for number in range(self.queries):
            center, labels = batch.pixels[going], batch.classes["labels"][going]
            if number:
                tried = proposals.step(x[going], center, self._share(number), draws.step(number, going))
            else:
                tried = center if self.start == "image" else proposals.start(center, draws.coins)
            verdicts = victim.verdicts(tried)
            queries[going] += 1
            fooled, score = is_fooled(verdicts, labels), self._rate(verdicts, labels, victim.classmap)
            kept = fooled | (score >= best[going])
            x[going[kept]], best[going[kept]] = tried[kept], score[kept]
            going = going[~fooled]
            if not len(going):
                break
        return Crafted(x=x, queries=queries)

    def _share(self, number: int) -> float:
        """Return p at a query: the share of an image that a window covers."""
        return float(self.p_init / 2 ** np.sum(_HALVINGS * self.queries < number))

    def _rate(self, verdicts: Verdicts, labels: IntArray, classmap: tuple[int, ...] | None) -> ScoreArray:
        if self.score == "logits":
            return wrong_confidence(verdicts, labels, classmap)
        return signed_confidence(verdicts, labels)


class _Draws:
    """Uniform numbers from a generator per image, drawn in blocks, so that a step costs no loop over images.

    Attributes:
        coins: Fair coins for the start, ``(n, C, H, W)`` bool.
    """

    def __init__(self, batch: Batch, *, seed: int, numbers: int) -> None:
        self._rngs = generators(batch, seed=(seed,))
        self._block = np.empty((len(batch.rows), _BLOCK, numbers), dtype=np.float32)
        self.coins = np.stack([rng.random(batch.pixels.shape[1:], dtype=np.float32) < 0.5 for rng in self._rngs])

    def step(self, number: int, going: IntArray) -> FloatArray:
        """Return the numbers of a step, counted from 1, for the images still `going`, ``(m, numbers)``."""
        place = (number - 1) % _BLOCK
        if place == 0:
            for image in going:
                self._rngs[image].random(dtype=np.float32, out=self._block[image])
        numbers: FloatArray = self._block[going, place]
        return numbers
