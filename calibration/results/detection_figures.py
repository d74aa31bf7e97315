"""How well one file tells one attack from its benign images: every figure a reviewer asks for, undefined ones named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from calibration.detection import (
    BENIGN_ACCEPTANCE,
    Scores,
    benign_error,
    precision_and_recall,
    robust_error,
    roc,
    threshold_at,
)
from calibration.metrics import Interval, share


@dataclass(frozen=True, kw_only=True)
class DetectionFigures:
    """What a detector is measured by; each with its 95 % interval, None where it is undefined.

    Attributes:
        auroc: Area under the ROC of the confidence, benign right ones against attacked wrong ones.
        tpr_at_1_fpr: Share of benign images accepted where 1 % of the successful attacks are.
        tpr_at_5_fpr: The same for 5 %.
        robust_error: RErr at the threshold of the file, see `detection.robust_error`.
        threshold_at_99: The largest threshold that accepts 99 % of the correctly classified benign images.
        robust_error_at_99: RErr there.
        benign_error_at_99: Err there.
        fooled_at_99: Accepted and wrong there, of all attacked images.
        precision: Rejections that are attacks, of benign and attacked images mixed (section 4.3 of the paper).
        recall: Attacks that are rejected.
        wrong_or_rejected: Error without credit for rejection.
        undefined: Why each figure that is None is undefined.
    """

    auroc: Interval | None
    tpr_at_1_fpr: Interval | None
    tpr_at_5_fpr: Interval | None
    robust_error: Interval | None
    threshold_at_99: float | None
    robust_error_at_99: Interval | None
    benign_error_at_99: Interval | None
    fooled_at_99: Interval | None
    precision: Interval | None
    recall: Interval
    wrong_or_rejected: Interval
    undefined: Mapping[str, str]


def detection_figures(benign: Scores, attacked: Scores, *, threshold: float) -> DetectionFigures:
    """Return every figure of one attack.

    Args:
        benign: The n images.
        attacked: The same images after the attack.
        threshold: That of the file, in [0, 1].

    Raises:
        UsageError: The sets differ in size.
    """
    curve = roc(benign, attacked)
    at_99 = threshold_at(benign, acceptance=BENIGN_ACCEPTANCE)
    shipped = _float32(threshold)
    precision, recall = precision_and_recall(benign, attacked, threshold=shipped)
    found: dict[str, Interval | None] = {
        "auroc": None if curve is None else curve.area,
        "tpr_at_1_fpr": None if curve is None else curve.true_positive_at(0.01),
        "tpr_at_5_fpr": None if curve is None else curve.true_positive_at(0.05),
        "robust_error": robust_error(benign, attacked, threshold=shipped),
        "robust_error_at_99": None if at_99 is None else robust_error(benign, attacked, threshold=at_99),
        "benign_error_at_99": None if at_99 is None else benign_error(benign, threshold=at_99),
        "fooled_at_99": None if at_99 is None else _fooled(attacked, threshold=at_99),
        "precision": precision,
    }
    reasons = _reasons(benign, attacked)
    return DetectionFigures(
        **found,
        threshold_at_99=at_99,
        recall=recall,
        wrong_or_rejected=share(int((~attacked.accepted(shipped) | ~attacked.right).sum()), len(attacked.right)),
        undefined={name: reasons[name] for name, value in found.items() if value is None},
    )


def _fooled(attacked: Scores, *, threshold: float) -> Interval:
    return share(int((attacked.accepted(threshold) & ~attacked.right).sum()), len(attacked.right))


def _reasons(benign: Scores, attacked: Scores) -> dict[str, str]:
    """Return what to say of each figure should it be undefined."""
    right = int(benign.right.sum())
    kept = int((benign.right & benign.passes).sum())
    of = "no benign image has the right label" if not right else "no attacked image has a wrong label"
    rule = f"the hard rule alone accepts {kept} of {right} correctly classified benign images, fewer than 99 %"
    curve = dict.fromkeys(("auroc", "tpr_at_1_fpr", "tpr_at_5_fpr"), of)
    at_99 = dict.fromkeys(("robust_error_at_99", "benign_error_at_99", "fooled_at_99"), rule)
    return {**curve, **at_99, "robust_error": "nothing is accepted", "precision": "nothing is rejected"}


def _float32(threshold: float) -> float:
    """Return the threshold as the graph holds it, so that it decides as the graph does."""
    return float(np.float32(threshold))
