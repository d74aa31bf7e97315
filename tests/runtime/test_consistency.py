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
    check_answer(golden, 1)
    check_golden(golden, guard.spec)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros((2,), np.int32)}, r"expected outputs for 1 images, got \(2, 1, 1, 1, 1\) rows"),
        ({"logits": np.zeros((0, 4), np.float32)}, r"got \(1, 1, 1, 0, 1\) rows"),
        ({"robust_logits": np.zeros((3, 4), np.float32)}, r"got \(1, 1, 1, 1, 3\) rows"),
        ({"labels": np.array([4], np.int32)}, r"expected labels in 0\.\.3"),
        ({"labels": np.array([-2], np.int32)}, r"expected labels in 0\.\.3"),
        ({"labels": np.array([-1], np.int32)}, r"or -1 and rejected, got others"),
    ],
    ids=["labels", "logits", "robust logits", "too large", "too small", "accepted without label"],
)
def test_impossible_answers(golden: Verdicts, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_answer(changed(golden, **arrays), 1)


def test_a_rejected_row_without_label_is_possible(golden: Verdicts) -> None:
    check_answer(changed(golden, labels=np.array([-1], np.int32), accepted=np.array([False])), 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros((1, 1), np.int32)}, r"expected one row in every output, got the shapes \(\(1, 1\)"),
        ({"confidence": np.zeros((), np.float32)}, "expected one row in every output"),
        ({"logits": np.zeros((1, 5), np.float32)}, "expected one row in every output"),
        ({"accepted": np.array([False])}, "expected label, accepted, confidence .* this machine or file decides"),
        ({"confidence": np.array([0.5], np.float32)}, "this machine or file decides differently"),
        ({"confidence": np.array([np.nan], np.float32)}, "this machine or file decides differently"),
        ({"logits": np.array([[9, 0, 0, 0]], np.float32)}, "does not decide by its own logits"),
        ({"logits": np.full((1, 4), np.nan, np.float32)}, "does not decide by its own logits"),
        ({"robust_logits": np.array([[9, 0, 0, 0]], np.float32)}, "does not decide by its own logits"),
    ],
    ids=["2-d", "0-d", "classes", "accepted", "confidence", "nan", "logits", "nan logits", "robust logits"],
)
def test_golden_mismatches(guard: Guard, golden: Verdicts, arrays: dict[str, object], message: str) -> None:
    assert golden[0].label == 3
    with pytest.raises(ModelError, match=message):
        check_golden(changed(golden, **arrays), guard.spec)
