"""What a verdict tells about how far an image is from being accepted under a wrong label; higher is closer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.attacks.attack import IntArray
from runtime.verdicts import Verdicts

ScoreArray = npt.NDArray[np.float64]


def signed_confidence(verdicts: Verdicts, labels: IntArray) -> ScoreArray:
    """Return minus the confidence where the verdict names the true label, else the confidence, ``(n,)`` in [-1, 1].

    A verdict without a label (-1) is at minus infinity: it leads nowhere.

    Args:
        verdicts: On ``n`` images.
        labels: Their true labels, ``(n,)``.
    """
    confidence = verdicts.confidence.astype(np.float64)
    score = np.where(verdicts.labels == labels, -confidence, confidence)
    return np.where(verdicts.labels < 0, -np.inf, score)


def wrong_confidence(verdicts: Verdicts, labels: IntArray, classmap: tuple[int, ...] | None) -> ScoreArray:
    """Return ``max over t != y of log p*(t) + log p'(M[t])``, ``(n,)``, at most 0; NaN where a logit is not finite.

    It is the logarithm of the confidence that the rule would find in the best wrong label, with p* = softmax(logits)
    and p' = softmax(robust_logits). With a single head it is ``max over t != y of log p*(t)``.

    Args:
        verdicts: On ``n`` images.
        labels: Their true labels y, ``(n,)``.
        classmap: M, ``(K,)``; None for a single head.
    """
    confidence = _log_softmax(verdicts.logits)
    if classmap is not None and verdicts.robust_logits is not None:
        confidence += _log_softmax(verdicts.robust_logits)[:, list(classmap)]
    confidence[np.arange(len(labels)), labels] = -np.inf
    best: ScoreArray = confidence.max(axis=1)
    return best


def _log_softmax(logits: npt.NDArray[Any]) -> ScoreArray:
    z = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity is the NaN that is promised
        z -= z.max(axis=1, keepdims=True)
    log_softmax: ScoreArray = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return log_softmax
