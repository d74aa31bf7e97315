"""How well a confidence tells benign images from attacked ones, whatever the threshold.

Positive means: benign, and to be accepted. What the hard rule rejects has no confidence at all: no threshold accepts
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

from calibration.metrics import Interval, share
from runtime.errors import UsageError

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]

BENIGN_ACCEPTANCE = 0.99
"""Share of correctly classified benign images that is accepted where confidence-thresholded errors are stated."""

_CONTRADICTED = math.log(2 / 0.05)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """One set of images and what the file says to them.

    Attributes:
        confidence: ``(n,)`` in [0, 1].
        passes: Whether the hard rule passes it, ``(n,)`` bool: its verdict at threshold 0.
        right: Whether the label is right, ``(n,)`` bool.

    Raises:
        UsageError: The shapes differ, or there are no images.
    """

    confidence: FloatArray
    passes: BoolArray
    right: BoolArray

    def __post_init__(self) -> None:
        """Check the shapes."""
        if not self.confidence.shape == self.passes.shape == self.right.shape or self.confidence.ndim != 1:
            shapes = f"{self.confidence.shape}, {self.passes.shape}, {self.right.shape}"
            raise UsageError(f"expected one confidence, pass and rightness each, got {shapes}")
        if not len(self.confidence):
            raise UsageError("expected at least one image, got none")

    @property
    def order(self) -> npt.NDArray[np.float64]:
        """What thresholds sort by, ``(n,)``: the confidence, or -1 where the hard rule rejects."""
        return np.where(self.passes, self.confidence.astype(np.float64), -1.0)

    def accepted(self, threshold: float) -> BoolArray:
        """Return which images a threshold accepts, ``(n,)``."""
        return self.passes & (self.confidence >= threshold)


@dataclass(frozen=True, kw_only=True, eq=False)
class Roc:
    """Receiver operating characteristic of a confidence.

    Attributes:
        thresholds: Falling, ``(m,)``; at each one, images of at least that confidence are accepted.
        true_positive: Share of benign images accepted, ``(m,)``, rising.
        false_positive: Share of attacked images accepted, ``(m,)``, rising.
        positives: How many benign images.
        negatives: How many attacked images.
        area: AUROC: how often a benign image is ahead of an attacked one, ties counted half; see `area_interval`.
    """

    thresholds: npt.NDArray[np.float64]
    true_positive: npt.NDArray[np.float64]
    false_positive: npt.NDArray[np.float64]
    positives: int
    negatives: int
    area: Interval

    def true_positive_at(self, false_positive: float) -> Interval:
        """Return the largest share of benign images accepted while at most `false_positive` attacked ones are.

        Its interval is that of a share at a threshold that was given, not chosen.
        """
        allowed = self.true_positive[self.false_positive <= false_positive].max(initial=0.0)
        return share(round(float(allowed) * self.positives), self.positives)


def roc(benign: Scores, attacked: Scores) -> Roc | None:
    """Return how benign images the file gets right are told from attacked ones it gets wrong.

    Images without either, benign and wrong already or attacked in vain, say nothing about detection.

    Args:
        benign: Positives are the ones with the right label.
        attacked: Negatives are the ones with a wrong label.

    Returns:
        None where there are no positives or no negatives.

    Source: Stutz et al. 2020 (CCAT), evaluation: positives are correctly classified clean images, negatives successful
        adversarial ones.
    """
    positive, negative = benign.order[benign.right], attacked.order[~attacked.right]
    if not len(positive) or not len(negative):
        return None
    thresholds = np.unique(np.concatenate([positive[positive >= 0], negative[negative >= 0], [np.inf]]))[::-1]
    ordered = np.sort(negative)
    behind = (np.searchsorted(ordered, positive, side="left") + np.searchsorted(ordered, positive, side="right")) / 2
    return Roc(
        thresholds=thresholds,
        true_positive=_shares_at_least(positive, thresholds),
        false_positive=_shares_at_least(negative, thresholds),
        positives=len(positive),
        negatives=len(negative),
        area=area_interval(float(behind.mean() / len(negative)), pairs=min(len(positive), len(negative))),
    )


def area_interval(area: float, *, pairs: int) -> Interval:
    """Return an AUROC with a 95 % interval that covers the truth at least that often, for every size.

    Args:
        area: The measured one, in [0, 1].
        pairs: The smaller number of positives and negatives, at least 1: so many pairs have no image in common.

    Source: Hoeffding 1963, section 5b: a two-sample U-statistic is an average of averages of `pairs` independent terms,
        so theorem 1, ``P(area >= mean + t) <= exp(-pairs * KL(mean + t, mean))``, holds for it as well.
    """
    return Interval(area, _limit(area, 0.0, pairs), _limit(area, 1.0, pairs))


def threshold_at(benign: Scores, *, acceptance: float) -> float | None:
    """Return the largest threshold that accepts at least a share of the correctly classified benign images.

    It describes these very images. A threshold for images to come is that of `thresholds.threshold_at_acceptance`.

    Args:
        benign: The images.
        acceptance: The share, in (0, 1].

    Returns:
        None where none is classified correctly, or the hard rule alone rejects more.

    Source: Stutz et al. 2020 (CCAT), section 4.
    """
    order = np.sort(benign.order[benign.right])[::-1]
    needed = math.ceil(acceptance * len(order) - 1e-9)
    return float(order[needed - 1]) if needed and order[needed - 1] >= 0 else None


def robust_error(benign: Scores, attacked: Scores, *, threshold: float) -> Interval | None:
    """Return RErr: the share of accepted answers that are wrong when each image may be attacked.

    An image counts as wrong where it is accepted and wrong, benign or attacked. It counts as accepted where it is
    accepted benign, or attacked and wrong: an attack cannot improve the error by being refused.

    Args:
        benign: The images.
        attacked: The same images after an attack.
        threshold: Smallest confidence that is accepted.

    Returns:
        None where nothing is accepted: such an error is undefined, not zero.

    Raises:
        UsageError: The sets differ in size.

    Source: Stutz et al. 2020 (CCAT), confidence-thresholded robust test error, derived anew: per image the worse of the
        benign and the attacked outcome in the numerator, the images either of which counts in the denominator.
    """
    if len(benign.right) != len(attacked.right):
        raise UsageError(f"expected as many attacked images as benign ones, got {len(attacked.right)}")
    fooled = attacked.accepted(threshold) & ~attacked.right
    accepted = benign.accepted(threshold)
    counted = int((accepted | fooled).sum())
    return share(int(((accepted & ~benign.right) | fooled).sum()), counted) if counted else None


def benign_error(benign: Scores, *, threshold: float) -> Interval | None:
    """Return Err: the share of accepted benign answers that are wrong; None where nothing is accepted."""
    accepted = benign.accepted(threshold)
    return share(int((accepted & ~benign.right).sum()), int(accepted.sum())) if accepted.any() else None


def precision_and_recall(benign: Scores, attacked: Scores, *, threshold: float) -> tuple[Interval | None, Interval]:
    """Return the paper's two figures of a detector: rejections that are attacks, and attacks that are rejected.

    Here, as in the paper and unlike everywhere else, an attack detected is the positive.

    Returns:
        Precision, None where nothing is rejected, and recall.

    Source: section 4.3 of the paper, figures 5 and 6.
    """
    false, true = (int((~scores.accepted(threshold)).sum()) for scores in (benign, attacked))
    return (share(true, true + false) if true + false else None), share(true, len(attacked.right))


def _limit(mean: float, end: float, pairs: int) -> float:
    """Return the value nearest to `end` that data with that mean does not contradict, by bisection."""
    inside, outside = mean, end
    if _divergence(mean, end) * pairs <= _CONTRADICTED:
        return end
    for _ in range(60):
        middle = (inside + outside) / 2
        if _divergence(mean, middle) * pairs <= _CONTRADICTED:
            inside = middle
        else:
            outside = middle
    return inside


def _divergence(mean: float, truth: float) -> float:
    """Return the Kullback-Leibler divergence of two Bernoulli distributions, in nats."""
    return float(rel_entr(mean, truth) + rel_entr(1 - mean, 1 - truth))


def _shares_at_least(values: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    below = np.searchsorted(np.sort(values), thresholds, side="left")
    return np.asarray((len(values) - below) / len(values))  # rounded once, as a limit such as 0.01 is
