from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from calibration.metrics import share
from calibration.results.image_columns import pack_labels
from calibration.results.pairs import Pair, best, excess, grouped, own_goal, success, surprising
from tests.calibration import report_samples
from tests.calibration.small_results import TRUTH, cell, columns

N = 1000


def attack(rows, n=N):
    """An attack that fools these images and has the others right."""
    truth = report_samples.truth_of(n)
    labels = truth.copy()
    labels[list(rows)] = (labels[list(rows)] + 1) % 10
    whole = report_samples.cell(fooled=len(rows), rejected=0, n=n)
    return replace(whole, verdicts=replace(whole.verdicts, labels=pack_labels(labels), passes=whole.verdicts.accepted))


@given(only_weak=st.integers(0, 30), only_strong=st.integers(0, 30), both=st.integers(0, 30))
def test_the_exact_test_of_mcnemar(only_weak, only_strong, both):
    weak = attack(range(both + only_weak), n=100)
    strong = attack([*range(both), *range(60, 60 + only_strong)], n=100)
    found = surprising(Pair(weak, strong, "fooled"), report_samples.truth_of(100))
    chance = binomtest(only_weak, only_weak + only_strong, alternative="greater").pvalue if only_weak else 1.0
    assert found == (chance < 0.025)


@pytest.mark.parametrize(
    ("weak", "strong", "found"),
    [(100, 60, True), (100, 90, False), (60, 100, False)],
    ids=["apart", "intervals touch", "as it should be"],
)
def test_without_verdicts_intervals_must_not_touch(weak, strong, found):
    pair = Pair(*(replace(attack(range(rows)), verdicts=None) for rows in (weak, strong)), "fooled")
    assert surprising(pair, None) == found
    assert excess(pair) == pytest.approx((weak - strong) / N)


def test_paired_images_tell_more_than_intervals():
    pair = Pair(attack(range(100)), attack(range(90)), "fooled")
    assert surprising(pair, report_samples.truth_of(N))


def test_goals():
    refused = cell(verdicts=columns(fooled={0}, rejected={1}))
    labels = TRUTH.copy()
    labels[1] = 1 - labels[1]
    wrong = cell(verdicts=replace(refused.verdicts, labels=pack_labels(np.where(np.arange(10) < 2, 1 - TRUTH, TRUTH))))
    assert (success(wrong, "fooled"), success(wrong, "label")) == (share(1, 10), share(2, 10))
    assert (own_goal(cell(adaptive=True)), own_goal(cell())) == ("fooled", "label")
    assert best([refused, wrong], "label") is wrong
    assert best([], "label") is None


def test_groups_keep_the_order():
    cells = [cell(attack=name, epsilon=epsilon) for name, epsilon in (("a", 0.1), ("b", 0.1), ("a", 0.3))]
    assert [[one.parameters["epsilon"] for one in group] for group in grouped(cells, lambda one: one.attack)] == [
        [0.1, 0.3],
        [0.1],
    ]
