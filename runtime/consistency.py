"""What an answer must look like: cheap checks of every one, and the proof at load.

The golden image must get the verdict its producer saw, and that verdict must follow from its logits by the rule.

Source: ``docs/file-format.md``; the pair rule is section 3.3.1 of the paper.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import ModelError
from runtime.spec import GuardSpec
from runtime.verdicts import Verdicts

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-3


def golden_image(spec: GuardSpec) -> NDArray[np.uint8]:
    """Return the golden image as a batch of one, uint8 ``(1, H, W, C)``."""
    return np.frombuffer(spec.golden.image, np.uint8).reshape(1, *spec.input_shape)


def check_answer(verdicts: Verdicts, n: int) -> None:
    """Refuse what no guard may answer, whatever its graph holds.

    Plain numbers and lengths, since this runs every time: reductions of numpy's cost a small network 3 % of its run.

    Args:
        verdicts: An answer whose shapes `check_golden` has seen once.
        n: How many images were asked about.

    Raises:
        ModelError: An output has another length, a label is out of range, or -1 is accepted.
    """
    robust = verdicts.logits if verdicts.robust_logits is None else verdicts.robust_logits
    labels = verdicts.labels.tolist()
    k = len(verdicts.classes)
    lengths = len(labels), len(verdicts.accepted), len(verdicts.confidence), len(verdicts.logits), len(robust)
    if lengths != (n, n, n, n, n):
        raise ModelError(f"expected outputs for {n} images, got {lengths} rows; export the file again")
    if min(labels) >= 0 and max(labels) < k:
        return
    if min(labels) < -1 or max(labels) >= k or verdicts.accepted[verdicts.labels < 0].any():
        raise ModelError(f"expected labels in 0..{k - 1}, or -1 and rejected, got others; export the file again")


def check_golden(verdicts: Verdicts, spec: GuardSpec) -> None:
    """Compare the verdict on the golden image with the one on record, and with its own logits.

    Args:
        verdicts: What the graph answers to `golden_image(spec)`.
        spec: What the file says about itself.

    Raises:
        ModelError: They differ: label or acceptance at all, confidence by more than 1e-3.
    """
    _check_shapes(verdicts, len(spec.classes))
    check_answer(verdicts, 1)
    verdict, golden = verdicts[0], spec.golden
    expected = (golden.label, golden.accepted, golden.confidence)
    got = (verdict.label, verdict.accepted, verdict.confidence)
    if got[:2] != expected[:2] or not abs(got[2] - expected[2]) <= TOLERANCE:
        raise ModelError(
            f"golden image: expected label, accepted, confidence {expected}, got {got}"
            "; this machine or file decides differently, export it again"
        )
    if spec.rule != "detector":
        _check_rule(verdicts, spec)


def _check_shapes(verdicts: Verdicts, k: int) -> None:
    robust = verdicts.logits if verdicts.robust_logits is None else verdicts.robust_logits
    got = verdicts.labels.shape, verdicts.accepted.shape, verdicts.confidence.shape, verdicts.logits.shape, robust.shape
    if got != ((1,), (1,), (1,), (1, k), (1, k)):
        raise ModelError(f"golden image: expected one row in every output, got the shapes {got}; export it again")


def _check_rule(verdicts: Verdicts, spec: GuardSpec) -> None:
    logits, robust = verdicts.logits[0].tolist(), verdicts.robust_logits
    label = logits.index(max(logits))
    confidence = _softmax(logits)[label]
    accepted = bool(verdicts.confidence[0] >= np.float32(spec.threshold))
    if robust is not None and spec.classmap is not None:
        partners, partner = robust[0].tolist(), spec.classmap[label]
        confidence *= _softmax(partners)[partner]
        accepted = accepted and partners.index(max(partners)) == partner
    same = label == verdicts.labels[0] and accepted == verdicts.accepted[0]
    if not same or not abs(confidence - verdicts.confidence[0].item()) <= TOLERANCE:
        raise ModelError(
            f"golden image: expected label {label}, accepted {accepted}, confidence {confidence:.4f} by the rule "
            f"{spec.rule}, got {verdicts[0]}; its graph does not decide by its own logits"
        )


def _softmax(logits: list[float]) -> list[float]:
    """Return softmax in float64; in plain numbers, since half a megabyte of numpy's code would be read for one row."""
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]
