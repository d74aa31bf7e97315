import numpy as np
import pytest
from scipy.special import log_softmax

from calibration.attacks.verdict_scores import signed_confidence, wrong_confidence
from runtime.verdicts import Verdicts


def verdicts(*, labels=(0, 0), confidence=(0.5, 0.5), logits=None, robust_logits=None):
    k = 3
    return Verdicts(
        labels=np.array(labels, np.int32),
        accepted=np.zeros(len(labels), np.bool_),
        confidence=np.array(confidence, np.float32),
        logits=np.zeros((len(labels), k), np.float32) if logits is None else logits,
        robust_logits=robust_logits,
        classes=("a", "b", "c"),
    )


def test_confidence_counts_against_the_true_label_and_for_a_wrong_one():
    answer = verdicts(labels=[1, 1, 2, -1], confidence=[1, 0.25, 0.25, 0])
    score = signed_confidence(answer, np.array([1, 1, 1, 1]))
    np.testing.assert_array_equal(score, [-1, -0.25, 0.25, -np.inf])


@pytest.mark.parametrize("classmap", [None, (1, 2, 0)], ids=["single head", "pair"])
def test_wrong_confidence_is_that_of_the_best_wrong_label(classmap):
    rng = np.random.default_rng(0)
    logits, robust = rng.normal(0, 5, (2, 40, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 40)
    score = wrong_confidence(verdicts(labels=labels, logits=logits, robust_logits=robust), labels, classmap)
    for row, label in enumerate(labels):
        star, other = log_softmax(logits[row].astype(float)), log_softmax(robust[row].astype(float))
        wrong = [star[t] + (0 if classmap is None else other[classmap[t]]) for t in range(3) if t != label]
        assert score[row] == pytest.approx(max(wrong), rel=1e-9)


def test_wrong_confidence_does_not_underflow():
    logits = np.array([[900, 0, -900], [901, 0, -900]], np.float32)
    score = wrong_confidence(verdicts(logits=logits), np.array([0, 0]), None)
    np.testing.assert_allclose(score, [-900, -901])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_have_no_score(value):
    logits = np.array([[0, value, 0]], np.float32)
    assert np.isnan(wrong_confidence(verdicts(labels=[-1], confidence=[0], logits=logits), np.array([0]), None)).all()
