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
HIGHEST = 1 + 1e-6
"""A softmax may end a rounding above 1."""


def golden_image(spec: GuardSpec) -> NDArray[np.uint8]:
    """Return the golden image as a batch of one, uint8 ``(1, H, W, C)``."""
    return np.frombuffer(spec.golden.image, np.uint8).reshape(1, *spec.input_shape)


def check_answer(verdicts: Verdicts, n: int, spec: GuardSpec, *, threshold: float) -> None:
    """Refuse what no guard may answer, whatever its graph holds: above all, a row accepted against the rule.

    Plain numbers, since this runs every time: reductions of numpy's cost a small network 3 % of its run.

    Args:
        verdicts: An answer.
        n: How many images were asked about.
        spec: What the file says about itself.
        threshold: Its `threshold32`, which whoever asks often keeps at hand.

    Raises:
        ModelError: An output has another shape, a label or a confidence is out of range, or a row is accepted that has
            no label, too low a confidence, or logits that name another label or another pair.
    """
    labels, accepted, confidence = verdicts.labels, verdicts.accepted, verdicts.confidence
    logits, robust, k = verdicts.logits, verdicts.robust_logits, len(verdicts.classes)
    heads = logits.shape if robust is None else robust.shape
    if not (labels.shape == accepted.shape == confidence.shape == (n,) and logits.shape == heads == (n, k)):
        shapes = labels.shape, accepted.shape, confidence.shape, logits.shape, heads
        raise ModelError(f"expected outputs for {n} images, got the shapes {shapes}; export the file again")
    classmap = spec.classmap
    for row, (label, kept, score) in enumerate(
        zip(labels.tolist(), accepted.tolist(), confidence.tolist(), strict=True)
    ):
        if not 0 <= score <= HIGHEST:
            raise ModelError(f"expected confidences in [0, 1], got {score}; export the file again")
        if not -1 <= label < k:
            raise ModelError(f"expected labels in 0..{k - 1}, or -1, got {label}; export the file again")
        if kept and not (
            label >= 0
            and score >= threshold
            and _is_largest(logits[row].tolist(), label)
            and (classmap is None or (robust is not None and _is_largest(robust[row].tolist(), classmap[label])))
        ):
            raise ModelError(
                f"expected a row to be rejected that the rule {spec.rule} rejects, got it accepted: {verdicts[row]}"
                "; export the file again"
            )


def _is_largest(logits: list[float], label: int) -> bool:
    """Say whether all K logits are finite and none is above that of `label`; ties may fall either way."""
    return logits[label] >= max(logits) and math.isfinite(sum(logits))


def check_golden(verdicts: Verdicts, spec: GuardSpec) -> None:
    """Compare the verdict on the golden image with the one on record, and with its own logits.

    Args:
        verdicts: What the graph answers to `golden_image(spec)`.
        spec: What the file says about itself.

    Raises:
        ModelError: They differ: label or acceptance at all, confidence by more than 1e-3.
    """
    check_answer(verdicts, 1, spec, threshold=spec.threshold32)
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


def _check_rule(verdicts: Verdicts, spec: GuardSpec) -> None:
    logits, robust = verdicts.logits[0].tolist(), verdicts.robust_logits
    label = logits.index(max(logits))
    confidence = _softmax(logits)[label]
    accepted = verdicts.confidence[0].item() >= spec.threshold32
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
