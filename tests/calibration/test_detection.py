import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from calibration.detection import (
    Scores,
    area_interval,
    benign_error,
    precision_and_recall,
    robust_error,
    roc,
    threshold_at,
)
from calibration.metrics import share
from runtime.errors import UsageError

IMAGE = st.tuples(st.integers(0, 8).map(lambda level: level / 8), st.booleans(), st.booleans())
IMAGES = st.lists(IMAGE, min_size=1, max_size=40)
PAIRS = st.lists(st.tuples(IMAGE, IMAGE), min_size=1, max_size=40)


def value(interval):
    return None if interval is None else interval.value


def scores(images):
    confidence, passes, right = zip(*images, strict=True)
    return Scores(confidence=np.array(confidence, np.float32), passes=np.array(passes), right=np.array(right))


@given(benign=IMAGES, attacked=IMAGES)
def test_curve_and_area_are_those_of_scikit_learn(benign, attacked):
    found = roc(scores(benign), scores(attacked))
    positive = [confidence if passes else -1 for confidence, passes, right in benign if right]
    negative = [confidence if passes else -1 for confidence, passes, right in attacked if not right]
    if not positive or not negative:
        assert found is None
        return
    truth, order = [1] * len(positive) + [0] * len(negative), [*positive, *negative]
    assert found.area.value == pytest.approx(roc_auc_score(truth, order))
    false, true, thresholds = roc_curve(truth, order, drop_intermediate=False)
    reachable = thresholds >= 0
    np.testing.assert_allclose(found.true_positive, true[reachable])
    np.testing.assert_allclose(found.false_positive, false[reachable])
    for limit in (0.0, 0.01, 0.05, 1.0):
        assert found.true_positive_at(limit).value == pytest.approx(true[reachable & (false <= limit)].max())


@given(pairs=PAIRS, threshold=st.integers(0, 9).map(lambda level: level / 8))
def test_robust_error_counts_image_by_image(pairs, threshold):
    wrong = counted = 0
    for clean, hit in pairs:
        kept, fooled = clean[1] and clean[0] >= threshold, hit[1] and hit[0] >= threshold and not hit[2]
        wrong += (kept and not clean[2]) or fooled
        counted += kept or fooled
    benign, attacked = (scores(column) for column in zip(*pairs, strict=True))
    expected = wrong / counted if counted else None
    assert value(robust_error(benign, attacked, threshold=threshold)) == pytest.approx(expected)
    kept = [clean for clean, _ in pairs if clean[1] and clean[0] >= threshold]
    expected = sum(not clean[2] for clean in kept) / len(kept) if kept else None
    assert value(benign_error(benign, threshold=threshold)) == pytest.approx(expected)


@given(pairs=PAIRS)
def test_an_attack_in_vain_leaves_the_benign_error(pairs):
    benign = scores([clean for clean, _ in pairs])
    refused = scores([(0.0, False, False)] * len(pairs))
    assert robust_error(benign, refused, threshold=0.5) == benign_error(benign, threshold=0.5)


@given(images=IMAGES, acceptance=st.sampled_from([0.25, 0.5, 0.9, 0.99, 1.0]))
def test_threshold_is_the_largest_that_accepts_enough(images, acceptance):
    benign = scores(images)
    found = threshold_at(benign, acceptance=acceptance)
    candidates = [level / 8 for level in range(9)]
    enough = [t for t in candidates if benign.accepted(t)[benign.right].sum() >= acceptance * benign.right.sum()]
    assert found == (max(enough) if enough and benign.right.any() else None)


@pytest.mark.parametrize(("m", "n", "shift"), [(30, 20, 1.0), (20, 200, 2.5), (5, 5, 0.0)])
def test_interval_of_the_area_covers_the_truth(m, n, shift):
    rng = np.random.default_rng(0)
    truth = norm.cdf(shift / np.sqrt(2))
    covered = 0
    for _ in range(400):
        ahead = rng.normal(shift, 1, m)[:, None] > rng.normal(0, 1, n)[None]
        interval = area_interval(float(ahead.mean()), pairs=min(m, n))
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
        covered += interval.low <= truth <= interval.high
    assert covered >= 0.95 * 400


@pytest.mark.parametrize(("area", "low", "high"), [(1.0, (0.05 / 2) ** (1 / 100), 1.0), (0.0, 0.0, 1 - 0.025**0.01)])
def test_interval_of_a_perfect_area_is_not_a_point(area, low, high):
    assert area_interval(area, pairs=100) == pytest.approx((area, low, high))


def test_precision_and_recall_of_the_paper():
    benign = scores([(0.9, True, True)] * 9 + [(0.9, False, True)])
    attacked = scores([(0.9, False, False)] * 3 + [(0.9, True, False)])
    assert precision_and_recall(benign, attacked, threshold=0.0) == (share(3, 4), share(3, 4))
    open_ = scores([(0.9, True, True)])
    assert precision_and_recall(open_, open_, threshold=0.0) == (None, share(0, 1))


def test_bad_sets():
    one = np.ones(1, np.float32), np.ones(1, np.bool_), np.ones(1, np.bool_)
    with pytest.raises(UsageError, match="expected one confidence, pass and rightness each"):
        Scores(confidence=one[0], passes=one[1][:0], right=one[2])
    with pytest.raises(UsageError, match="expected at least one image, got none"):
        Scores(confidence=one[0][:0], passes=one[1][:0], right=one[2][:0])
    with pytest.raises(UsageError, match="expected as many attacked images as benign ones, got 2"):
        robust_error(scores([(1.0, True, True)]), scores([(1.0, True, True)] * 2), threshold=0.0)


@pytest.mark.parametrize(("n", "limit"), [(100, 0.01), (200, 0.01), (1000, 0.01), (20, 0.05), (60, 0.05), (700, 0.05)])
def test_exactly_as_many_as_allowed_are_allowed(n, limit):
    """One attack in a hundred passes before every benign image: that is 1 %, and not more by a rounding."""
    ahead = round(n * limit)
    benign = Scores(confidence=np.full(10, 0.5), passes=np.ones(10, bool), right=np.ones(10, bool))
    confidence = np.where(np.arange(n) < ahead, 0.9, 0.1)
    attacked = Scores(confidence=confidence, passes=np.ones(n, bool), right=np.zeros(n, bool))
    assert roc(benign, attacked).true_positive_at(limit).value == 1
