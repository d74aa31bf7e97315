"""What a set of verdicts amounts to: counts that add up, and rates with 95 % intervals.

Every image is exactly one of *correct* (right label and accepted), *rejected* (not accepted, whatever the label) and
*fooled* (wrong label and accepted). On benign images the rejected share is what the defence costs; on attacked images
it is the detection rate, which counts attacks that failed anyway, as the paper does (section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from runtime.errors import UsageError

IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]

_TAIL = 0.025


class Interval(NamedTuple):
    """A share and its 95 % confidence interval, all in [0, 1]."""

    value: float
    low: float
    high: float


class Outcomes(NamedTuple):
    """What became of each image, bool ``(n,)`` each; the first three are a partition."""

    correct: BoolArray
    rejected: BoolArray
    fooled: BoolArray
    right_label: BoolArray


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many images each outcome has.

    Attributes:
        n: All images, at least 1.
        correct: Right label and accepted.
        rejected: Not accepted, whatever the label.
        fooled: Wrong label and accepted.
        right_label: Right label, the rule ignored: n times the accuracy through Z*.

    Raises:
        UsageError: The first three do not add up to n, or `right_label` contradicts them.
    """

    n: int
    correct: int
    rejected: int
    fooled: int
    right_label: int

    def __post_init__(self) -> None:
        """Check that the outcomes are a partition."""
        parts = (self.correct, self.rejected, self.fooled)
        if self.n < 1 or min(parts) < 0 or sum(parts) != self.n:
            raise UsageError(f"counts: expected correct, rejected and fooled to add up to n >= 1, got {self}")
        if not self.correct <= self.right_label <= self.correct + self.rejected:
            raise UsageError(f"counts: expected right_label from correct to correct + rejected, got {self}")

    @property
    def accepted(self) -> int:
        """Images that were not rejected."""
        return self.n - self.rejected


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of all images, each with its interval.

    Attributes:
        correct: Right label and accepted.
        rejected: Not accepted: detection rate when attacked, benign images wrongly rejected when not.
        fooled: Wrong label and accepted.
        right_label: Accuracy through Z*, the rule ignored.
        error_when_accepted: Wrong among the accepted ones; None where nothing is accepted, as a rule that rejects
            everything has no error, not an error of zero.
    """

    correct: Interval
    rejected: Interval
    fooled: Interval
    right_label: Interval
    error_when_accepted: Interval | None

    @property
    def coverage(self) -> Interval:
        """Share of accepted images; belongs beside every error rate."""
        return Interval(1 - self.rejected.value, 1 - self.rejected.high, 1 - self.rejected.low)


def judge_outcomes(labels: IntArray, accepted: BoolArray, truth: IntArray) -> Outcomes:
    """Return what became of each image.

    Args:
        labels: What the file answered, ``(n,)`` integers; -1 where its logits were not finite, which is never right.
        accepted: Its verdicts, ``(n,)`` bool.
        truth: The true labels, ``(n,)`` integers in [0, K).

    Raises:
        UsageError: The shapes differ.
    """
    if not labels.shape == accepted.shape == truth.shape or labels.ndim != 1:
        shapes = f"{labels.shape}, {accepted.shape}, {truth.shape}"
        raise UsageError(f"expected one label, verdict and truth each, got {shapes}")
    right = labels == truth
    return Outcomes(correct=right & accepted, rejected=~accepted, fooled=~right & accepted, right_label=right)


def count(outcomes: Outcomes) -> Counts:
    """Return how many images each outcome has; there must be one image at least."""
    sums = {name: int(mask.sum()) for name, mask in outcomes._asdict().items()}
    return Counts(n=len(outcomes.correct), **sums)


def rate(counts: Counts) -> Rates:
    """Return the rates of counts, with their intervals."""
    shares = {name: share(getattr(counts, name), counts.n) for name in ("correct", "rejected", "fooled", "right_label")}
    error = share(counts.fooled, counts.accepted) if counts.accepted else None
    return Rates(**shares, error_when_accepted=error)


def share(part: int, whole: int) -> Interval:
    """Return part / whole with its exact 95 % interval, which covers the truth at least that often for every n.

    Args:
        part: Successes, in [0, whole].
        whole: Trials, at least 1.

    Raises:
        UsageError: They are not of that kind.

    Source: Clopper and Pearson 1934; the limits are quantiles of beta distributions.
    """
    if not 0 <= part <= whole or whole < 1:
        raise UsageError(f"expected a part of a whole of at least 1, got {part} of {whole}")
    low = float(betaincinv(part, whole - part + 1, _TAIL)) if part else 0.0
    high = float(betaincinv(part + 1, whole - part, 1 - _TAIL)) if part < whole else 1.0
    return Interval(part / whole, low, high)
