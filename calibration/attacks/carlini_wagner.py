"""Carlini & Wagner's L2 attack: the nearest image on the other side of a decision, by a margin κ of its logits.

Its problem is theirs: the least ``‖δ‖² + c · max(κ - margin(x + δ), 0)`` over changes δ that keep pixels in [0, 1],
for the least c that reaches κ. That is the shortest δ with a margin of κ, and where it is found, ``2δ = c · ∇margin``
on every pixel that is free to move.

Its solver is ours, `Search`. Binary search looks for that δ through c, one descent after another, and c has no scale.
Here the length of δ takes its place, which has one, and is sought in the same descent. The box is kept by projection
and not by tanh, whose derivative is zero just where most pixels of a drawing are: at 0 and 1. And where the margin
jumps from one competing class, or head, to another, the way there follows a smooth stand-in; the margin alone decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import numpy as np

from calibration.attacks.attack import (
    BATCH_SIZE,
    AttackResult,
    Batch,
    BoolArray,
    Crafted,
    FloatArray,
    IntArray,
    LossAttack,
    Succeeded,
    check_count,
    check_finite,
)
from calibration.attacks.shortest_change import Search
from calibration.gradients import GradientGraph
from calibration.objectives.margin import Margin, MarginObjective, PairMargin, SummedMargins
from calibration.objectives.pool import ExpectedMargin
from calibration.objectives.rule import LEAST_SPREAD
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(LossAttack):
    """The shortest change that gives a margin objective a value of at least κ; the image itself where none is found.

    Attributes:
        objective: A margin: `Margin`, `PairMargin` for an attacker who knows the rule, `SummedMargins` for equation 10.
        confidence: κ, the margin to reach, at least 0, in logits.
        smooth: Whether to go along the `guide` of the objective, its log-odds, instead of the margin itself, where the
            logits of an image differ by `LEAST_SPREAD` or more. The margin decides either way.
        rounds: How often to look, at least 1: first from the image outwards, then from half the best change, where
            other ways out open.
        steps: Steps of a round, at least 1; in the first they count from the first success on.
        search: Steps after which a search without success is given up, at least 1.
        step_size: First step of a round relative to the length of the change, in (0, 1]; it falls as a cosine.
        growth: Most that the radius grows by in a step before the first success, relative to it, in (0, 1]. Slow growth
            looks around at every radius.
        abort_early: Whether to leave an image alone after a round that shortened its change by less than 1 %.

    Raises:
        UsageError: A value is out of range, or the objective no margin.

    Source: Carlini & Wagner 2017, sections V and VI (problem, margin f6, κ); equations 4 and 5 of the paper. Rony et
        al. 2019 (DDN) and Pintor et al. 2021 (FMN) for the radius in place of c.
    """

    name: ClassVar[str] = "cw"
    needs_margin: ClassVar[bool] = True
    objective: MarginObjective = field(default=Margin())
    confidence: float = 0.0
    smooth: bool = True
    rounds: int = 6
    steps: int = 30
    search: int = 100
    step_size: float = 0.5
    growth: float = 0.05
    abort_early: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not isinstance(self.objective, Margin | PairMargin | SummedMargins | ExpectedMargin):
            raise UsageError(
                f"expected objective as Margin, PairMargin or SummedMargins, got {self.objective}; κ is measured on it"
            )
        for name in ("rounds", "steps", "search"):
            check_count(name, getattr(self, name))
        if not 0 <= self.confidence < np.inf:
            raise UsageError(f"expected confidence as a number of at least 0, got {self.confidence}")
        for name, share in (("step_size", self.step_size), ("growth", self.growth)):
            if not 0 < share <= 1:
                raise UsageError(f"expected {name} in (0, 1], got {share}; it is relative to the length of the change")

    def sweep(
        self,
        victim: GradientGraph,
        pixels: FloatArray,
        labels: IntArray,
        confidences: Sequence[float],
        *,
        targets: IntArray | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[AttackResult]:
        """Attack with one κ after another, each from where the one before ended.

        Args:
            victim: What is attacked.
            pixels: ``(N, C, H, W)`` float32 in [0, 1].
            labels: True labels, ``(N,)`` integers in [0, K).
            confidences: κ of each attack, ascending.
            targets: Labels to reach, ``(N,)``, for a targeted objective.
            batch_size: Images at a time, at least 1.

        Yields:
            The result for each κ; its `gradients` are those that this κ took on top of the ones before.

        Raises:
            UsageError: An argument is not what is said above.
            ModelError: A gradient is not finite.
        """
        if list(confidences) != sorted(confidences):
            raise UsageError(f"expected confidences in ascending order, got {list(confidences)}; sort them")
        start = pixels
        for confidence in confidences:
            attack = replace(self, confidence=confidence)
            options = {option.name: getattr(attack, option.name) for option in fields(attack)}
            result = _Continued(**options, start=start)(victim, pixels, labels, targets=targets, batch_size=batch_size)
            start = result.x_adv
            yield replace(result, attack=attack)

    def _craft(self, victim: GradientGraph, batch: Batch, succeeded: Succeeded | None) -> Crafted:
        start = self._start(batch)
        scale = _spread(victim.logits(start), self.reads)
        search = Search(self, batch.pixels, start, scale)
        while len(search.going):
            blunt = scale[search.going] < LEAST_SPREAD
            search.step(*self._look(victim, search.points(), batch.take(search.going), blunt))
        return Crafted(x=search.best, gradients=search.gradients, flat=search.flat)

    def _look(
        self, victim: GradientGraph, x: FloatArray, batch: Batch, blunt: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the margins at `x`, ``(n,)``, and the gradients to go along: where `blunt`, those of the margins."""
        margin, gradient = np.empty(len(x), dtype=np.float32), np.empty_like(x)
        guide = self.objective.guide(self.confidence) if self.smooth else self.objective
        for objective, rows in ((guide, np.flatnonzero(~blunt)), (self.objective, np.flatnonzero(blunt))):
            if len(rows):
                classes = batch.take(rows).classes
                here = victim.value_and_gradient(objective, x[rows], **classes)
                margin[rows], gradient[rows] = self.objective.margin(here.logits, classes), here.gradient
        check_finite(gradient)
        return margin, gradient

    def _start(self, batch: Batch) -> FloatArray:
        """Return where each image of a batch starts from, ``(n, C, H, W)``."""
        return batch.pixels


def _spread(logits: Mapping[str, FloatArray], reads: Sequence[str]) -> FloatArray:
    """Return the largest difference between two logits of a head, that of the head where it is smallest, ``(n,)``."""
    spreads: FloatArray = np.min([np.ptp(logits[name], axis=1) for name in reads], axis=0)
    return spreads


@dataclass(frozen=True, kw_only=True)
class _Continued(CarliniWagner):
    """The attack from other points than the images, one for each image of the whole set."""

    start: FloatArray = field(repr=False, compare=False)

    def _start(self, batch: Batch) -> FloatArray:
        return self.start[batch.rows]
