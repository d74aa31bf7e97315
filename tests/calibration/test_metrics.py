import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from calibration.metrics import Counts, count, judge_outcomes, rate, share
from runtime.errors import UsageError

VERDICTS = st.lists(st.tuples(st.integers(-1, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=60)


def outcomes_of(rows):
    labels, accepted, truth = (np.array(column) for column in zip(*rows, strict=True))
    return judge_outcomes(labels, accepted, truth)


@settings(deadline=None)
@given(rows=VERDICTS)
def test_outcomes_are_a_partition_that_follows_the_words(rows):
    outcomes = outcomes_of(rows)
    for row, (label, accepted, truth) in enumerate(rows):
        word = "rejected" if not accepted else "correct" if label == truth else "fooled"
        assert [name for name in ("correct", "rejected", "fooled") if getattr(outcomes, name)[row]] == [word]
        assert outcomes.right_label[row] == (label == truth)


@settings(deadline=None)
@given(rows=VERDICTS)
def test_rates_follow_from_counts(rows):
    counts = count(outcomes_of(rows))
    rates = rate(counts)
    assert counts.n == len(rows) == counts.correct + counts.rejected + counts.fooled
    assert rates.correct.value + rates.rejected.value + rates.fooled.value == pytest.approx(1)
    assert rates.right_label.value == sum(label == truth for label, _, truth in rows) / len(rows)
    accepted = sum(accept for _, accept, _ in rows)
    assert rates.coverage.value == pytest.approx(accepted / len(rows))
    assert rates.coverage.low <= rates.coverage.value <= rates.coverage.high
    if accepted:
        assert rates.error_when_accepted.value == pytest.approx(counts.fooled / accepted)
    else:
        assert rates.error_when_accepted is None


@settings(deadline=None)
@given(rows=VERDICTS, seed=st.integers(0, 9))
def test_the_order_of_images_does_not_matter(rows, seed):
    shuffled = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]
    assert rate(count(outcomes_of(shuffled))) == rate(count(outcomes_of(rows)))


@settings(deadline=None)
@given(whole=st.integers(1, 3000), data=st.data())
def test_interval_is_clopper_and_pearsons(whole, data):
    part = data.draw(st.integers(0, whole))
    exact = binomtest(part, whole).proportion_ci(0.95, method="exact")
    found = share(part, whole)
    assert found == pytest.approx((part / whole, exact.low, exact.high), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_nothing_in_a_thousand_still_leaves_an_upper_limit():
    assert share(0, 1000) == pytest.approx((0, 0, 0.003682), abs=1e-6)


@pytest.mark.parametrize("truth", [0.01, 0.2, 0.5], ids=str)
@pytest.mark.parametrize("n", [10, 100])
def test_interval_covers_the_truth_at_least_as_often_as_it_says(truth, n):
    draws = np.random.default_rng(0).binomial(n, truth, 4000)
    covered = [share(int(part), n).low <= truth <= share(int(part), n).high for part in draws]
    assert np.mean(covered) >= 0.945


@pytest.mark.parametrize(("part", "whole"), [(-1, 3), (4, 3), (0, 0)], ids=str)
def test_shares_of_nothing(part, whole):
    with pytest.raises(UsageError, match="expected a part of a whole of at least 1"):
        share(part, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fooled": 3}, "add up to n >= 1"),
        ({"n": 0, "correct": 0, "rejected": 0, "fooled": 0, "right_label": 0}, "add up to n >= 1"),
        ({"correct": 11, "rejected": -3}, "add up to n >= 1"),
        ({"right_label": 4}, "right_label from correct to correct"),
        ({"right_label": 9}, "right_label from correct to correct"),
    ],
    ids=["sum", "empty", "negative", "too few right", "too many right"],
)
def test_counts_that_contradict_themselves(change, message):
    with pytest.raises(UsageError, match=message):
        Counts(**{"n": 10, "correct": 5, "rejected": 3, "fooled": 2, "right_label": 6} | change)


def test_shapes_that_differ():
    with pytest.raises(UsageError, match="expected one label, verdict and truth each"):
        judge_outcomes(np.zeros(3, int), np.ones(2, bool), np.zeros(3, int))
