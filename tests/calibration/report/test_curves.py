from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from calibration.metrics import share
from calibration.report.curves import MOST_POINTS, budget_curves, distance_curves, roc_curves, together_curves
from calibration.results.image_columns import pack
from tests.calibration import small_results
from tests.calibration.report_samples import cell, realistic, results, truth_of
from tests.calibration.small_results import columns


def test_curves_ascend_in_epsilon_whatever_the_order_of_the_cells():
    cells = [cell("igs", 0.3, 30), cell("igs", 0.1, 5), cell("igs", 0.2, 10), cell("fgs", 0.3, 7), cell("cw", None)]
    fooled, rejected = budget_curves(cells, "fooled"), budget_curves(cells, "rejected")
    assert [one.name for one in fooled] == ["IGS", "FGS"]
    assert fooled[0].places == (0.1, 0.2, 0.3)
    assert [point.value for point in fooled[0].shares] == [0.005, 0.01, 0.03]
    assert [point.value for point in rejected[0].shares] == [0.96] * 3
    assert fooled[1].places == (0.3,)


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [cell("igs", 0.3), cell("fgs", 0.1)],
        [cell("cw", None), cell("cw", None)],
        [cell("pgd", 0.3), cell("pgd", 0.3)],
    ],
    ids=["nothing", "one budget each", "no budget", "one budget twice"],
)
def test_no_curve_without_several_budgets(cells):
    assert budget_curves(cells, "fooled") == ()


def test_least_changes_of_attacks_without_a_budget():
    found = small_results.results(
        small_results.cell(attack="cw", epsilon=None, verdicts=columns({0, 1, 2}), size=np.arange(10) / 10),
        small_results.cell(attack="igs", fooled=9),
    )
    (curve,) = distance_curves(found.cells, found)
    assert curve.name == "C&W L2"
    assert curve.places == pytest.approx((0, 0.2, 0.4))
    assert curve.shares == (share(1, 10), share(2, 10), share(3, 10))


def test_all_attacks_together_grow_with_the_budget_until_nothing_is_left():
    found = realistic()
    every, knowing = together_curves(found)
    assert (every.name, knowing.name) == ("every attack", "attacks that know the rule")
    for curve in (every, knowing):
        assert list(curve.places) == sorted(curve.places)
        values = [one.value for one in curve.shares]
        assert values == sorted(values)
        assert len(values) <= MOST_POINTS + 1
    assert every.shares[0] == found.benign.rates.fooled
    widest = max(row.epsilon for row in found.worst_cases if row.epsilon is not None)
    within = [one.value for place, one in zip(every.places, every.shares, strict=True) if place <= widest + 1e-6]
    row = next(row for row in found.worst_cases if row.epsilon == widest and not row.adaptive)
    assert within[-1] == pytest.approx(row.fooled.value, abs=1 / MOST_POINTS)


def test_roc_of_each_attack_at_its_largest_budget():
    strong = cell("igs", 0.3, 300, 600)
    said = strong.verdicts
    confidence = np.where(said.pass_array, np.random.default_rng(3).random(1000), 0.5).astype(np.float32)
    confidence = np.where(said.accepted_array, np.maximum(confidence, 0.74), np.minimum(confidence, 0.7))
    strong = replace(strong, verdicts=replace(said, confidence=pack(confidence, "<f4")))
    found = results(cell("igs", 0.1, 10, 900), strong, cell("fgs", 0.3, 0, 0))
    (curve,) = roc_curves(found.cells, found)
    assert curve.name.startswith("IGS at")
    assert curve.name.endswith("0.3")
    truth = truth_of(1000)
    benign, attacked = found.benign.verdicts.scores(truth), strong.verdicts.scores(truth)
    order = np.concatenate([benign.order[benign.right], attacked.order[~attacked.right]])
    positive = np.concatenate([np.ones(benign.right.sum()), np.zeros((~attacked.right).sum())])
    false, true, _ = roc_curve(positive, order, drop_intermediate=False)
    known = set(zip(false.round(9).tolist(), true.round(9).tolist(), strict=True))
    shown = {(round(x, 9), round(one.value, 9)) for x, one in zip(curve.places, curve.shares, strict=True)}
    assert shown <= known
    assert 10 < len(shown) <= MOST_POINTS


def test_nothing_is_drawn_of_results_without_single_images():
    found = small_results.results(replace(small_results.cell(epsilon=None), verdicts=None, changes=None))
    found = replace(found, benign=replace(found.benign, verdicts=None), worst_cases=())
    assert together_curves(found) == distance_curves(found.cells, found) == roc_curves(found.cells, found) == ()
