from __future__ import annotations

import numpy as np
import pytest

from runtime import Guard, ModelError, Verdicts
from runtime.consistency import check_answer, check_golden, golden_image


@pytest.fixture
def golden(guard: Guard) -> Verdicts:
    return guard.classify(golden_image(guard.spec))


def changed(verdicts: Verdicts, **arrays: object) -> Verdicts:
    return verdicts._replace(**arrays)


def test_the_honest_answer_passes(guard: Guard, golden: Verdicts) -> None:
    check_answer(golden, 1, guard.spec, threshold=0.0)
    check_golden(golden, guard.spec)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros((2,), np.int32)}, r"expected outputs for 1 images, got the shapes \(\(2,\), \(1,\)"),
        ({"labels": np.zeros((1, 1), np.int32)}, r"got the shapes \(\(1, 1\), \(1,\)"),
        ({"confidence": np.zeros((), np.float32)}, "expected outputs for 1 images"),
        ({"logits": np.zeros((0, 4), np.float32)}, r"got the shapes .* \(0, 4\), \(1, 4\)\)"),
        ({"logits": np.zeros((1, 5), np.float32)}, r"got the shapes .* \(1, 5\), \(1, 4\)\)"),
        ({"robust_logits": np.zeros((3, 4), np.float32)}, r"got the shapes .* \(1, 4\), \(3, 4\)\)"),
        ({"labels": np.array([4], np.int32)}, r"expected labels in 0\.\.3, or -1"),
        ({"labels": np.array([-2], np.int32)}, r"expected labels in 0\.\.3, or -1"),
        (
            {"labels": np.array([-1], np.int32)},
            "expected a row to be rejected that the rule pair rejects, got it accepted: Verdict",
        ),
        ({"confidence": np.array([0.49], np.float32)}, "that the rule pair rejects, got it accepted"),
        ({"logits": np.array([[9, 10, 11, 12]], np.float32)[:, ::-1]}, "that the rule pair rejects, got it accepted"),
        ({"logits": np.full((1, 4), np.nan, np.float32)}, "that the rule pair rejects, got it accepted"),
        ({"logits": np.array([[np.nan, 9, 9, 9]], np.float32)}, "that the rule pair rejects, got it accepted"),
        ({"robust_logits": np.array([[9, 0, 0, 0]], np.float32)}, "that the rule pair rejects, got it accepted"),
        ({"confidence": np.array([np.nan], np.float32)}, r"expected confidences in \[0, 1\]"),
        ({"confidence": np.array([1.01], np.float32)}, r"expected confidences in \[0, 1\]"),
        ({"confidence": np.array([-0.1], np.float32)}, r"expected confidences in \[0, 1\]"),
    ],
    ids=str,
)
def test_impossible_answers(guard: Guard, golden: Verdicts, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_answer(changed(golden, **arrays), 1, guard.spec, threshold=0.5)


def test_a_rejected_row_without_label_is_possible(guard: Guard, golden: Verdicts) -> None:
    rejected = changed(golden, labels=np.array([-1], np.int32), accepted=np.array([False]))
    check_answer(rejected._replace(confidence=np.zeros(1, np.float32)), 1, guard.spec, threshold=0.5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"accepted": np.array([False])}, "expected label, accepted, confidence .* this machine or file decides"),
        ({"confidence": np.array([0.5], np.float32)}, "this machine or file decides differently"),
        ({"logits": np.array([[0, 0, 0, 0.1]], np.float32)}, "does not decide by its own logits"),
        ({"robust_logits": np.array([[0, 0, 0.1, 0]], np.float32)}, "does not decide by its own logits"),
    ],
    ids=["accepted", "confidence", "logits", "robust logits"],
)
def test_golden_mismatches(guard: Guard, golden: Verdicts, arrays: dict[str, object], message: str) -> None:
    assert golden[0].label == 3
    with pytest.raises(ModelError, match=message):
        check_golden(changed(golden, **arrays), guard.spec)
