from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.metrics import share
from calibration.results.worst_case import least_changes, worst_cases
from tests.calibration.small_results import TRUTH, N, cell, changes, columns

ROWS = st.sets(st.integers(0, N - 1))
EPSILONS = (0.1, 0.2, 0.3)
ATTACK = st.tuples(
    st.sampled_from((*EPSILONS, None)), ROWS, ROWS, st.booleans(), st.lists(st.floats(0, 1), min_size=N, max_size=N)
)


def made(attacks):
    """Attacks on ten images: what each fools, rejects, and how much of its budget it uses."""
    return [
        cell(
            attack=f"a{place}",
            epsilon=epsilon,
            adaptive=adaptive,
            verdicts=columns(fooled - rejected, rejected),
            size=np.array(used) * (0.35 if epsilon is None else epsilon),
        )
        for place, (epsilon, fooled, rejected, adaptive, used) in enumerate(attacks)
    ]


@given(attacks=st.lists(ATTACK, min_size=1, max_size=5), benign=st.tuples(ROWS, ROWS))
def test_each_row_is_that_of_a_loop_over_images(attacks, benign):
    before = columns(benign[0] - benign[1], benign[1])
    cells = made(attacks)
    for row in worst_cases(before, TRUTH, cells):
        chosen = [one for one in cells if one.adaptive or not row.adaptive]
        fooled = bad = 0
        for image in range(N):
            seen = [before]
            limit = np.inf if row.epsilon is None else row.epsilon + 1e-6
            seen += [one.verdicts for one in chosen if one.changes.norm("linf")[image] <= limit]
            fooled += any(v.accepted_array[image] and v.label_array[image] != TRUTH[image] for v in seen)
            bad += any(not v.accepted_array[image] or v.label_array[image] != TRUTH[image] for v in seen)
        assert (row.fooled, row.wrong_or_rejected, row.n) == (share(fooled, N), share(bad, N), N)


@given(attacks=st.lists(ATTACK, min_size=1, max_size=5))
def test_worst_case_is_no_better_than_any_attack_and_grows_with_the_budget(attacks):
    cells = made(attacks)
    rows = [row for row in worst_cases(columns(), TRUTH, cells) if not row.adaptive or all(c.adaptive for c in cells)]
    shares = [row.fooled.value for row in rows if row.epsilon is not None]
    assert shares == sorted(shares, reverse=True)
    for one in cells:
        (row,) = [row for row in rows if row.epsilon == one.parameters.get("epsilon")]
        assert row.fooled.value >= one.rates.fooled.value
        assert row.wrong_or_rejected.value >= one.detection.wrong_or_rejected.value


def test_attacks_that_fail_on_different_images_add_up():
    cells = [
        cell(attack="pgd", verdicts=columns({0, 1}), adaptive=True),
        cell(attack="igs", verdicts=columns({1, 2})),
        cell(attack="cw", verdicts=columns({7, 8}), epsilon=None, size=np.where(TRUTH == 1, 0.05, 0.5)),
    ]
    all_, adaptive, any_, any_adaptive = worst_cases(columns({9}), TRUTH, cells)
    assert (all_.epsilon, all_.adaptive, all_.attacks) == (0.1, False, 3)
    assert all_.fooled == share(5, N)
    assert (adaptive.adaptive, adaptive.attacks, adaptive.fooled) == (True, 1, share(3, N))
    assert (any_.norm, any_.epsilon, any_.fooled) == (None, None, share(6, N))
    assert any_adaptive.fooled == share(3, N)


def test_a_threshold_for_99_percent_helps_only_where_confidence_tells():
    (row,) = worst_cases(columns(), TRUTH, [cell(verdicts=columns({0, 1, 2}, confidence=0.5))])
    assert (row.fooled, row.fooled_at_99) == (share(3, N), share(0, N))
    (row,) = worst_cases(columns(rejected={5}), TRUTH, [cell()])
    assert row.fooled_at_99 is None


def test_rows_of_adaptive_attacks_alone_are_said_once():
    (row,) = worst_cases(columns(), TRUTH, [cell(adaptive=True)])
    assert row.adaptive


def test_balls_of_both_norms():
    near = {"epsilon": 1.0, "norm": "l2"}
    rows = worst_cases(columns(), TRUTH, [cell(epsilon=0.3), cell(parameters=near, fooled=4, size=0.4)])
    assert [(row.norm, row.epsilon, row.fooled.value) for row in rows] == [("linf", 0.3, 0.1), ("l2", 1.0, 0.4)]


def test_attacks_without_verdicts_are_left_out():
    old = replace(cell(), verdicts=None, changes=None, detection=None)
    assert worst_cases(columns(), TRUTH, [old]) == ()
    (row,) = worst_cases(columns(), TRUTH, [old, cell(fooled=2)])
    assert row.attacks == 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_least_change_that_fools(norm):
    cells = [
        cell(verdicts=columns({0, 1}), size=0.2),
        cell(verdicts=columns({1, 2}), epsilon=None, size=0.1),
        replace(cell(), verdicts=None, changes=None),
    ]
    found = least_changes(columns({9}), TRUTH, cells, norm=norm)
    scale = changes(1.0).norm(norm)[0]
    np.testing.assert_allclose(found, [0.2 * scale, 0.1 * scale, 0.1 * scale, *[np.inf] * 6, 0], rtol=1e-6)
