import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.attacks.norms import Budget
from calibration.comparing.pointwise import Member, pointwise, untouched
from calibration.metrics import share
from calibration.results.image_columns import ChangeColumns, VerdictColumns, pack, pack_labels
from calibration.results.joining import Shared
from tests.calibration.small_results import TRUTH, N, cell, tally_of


def said(rng):
    labels = np.where(rng.random(N) < 0.5, TRUTH, 1 - TRUTH)
    accepted = rng.random(N) < 0.6
    confidence = np.where(accepted, 0.5 + rng.random(N) / 2, rng.random(N) / 2)
    return VerdictColumns(
        labels=pack_labels(labels),
        accepted=pack(accepted, "u1"),
        passes=pack(accepted | (rng.random(N) < 0.5), "u1"),
        confidence=pack(confidence, "<f4"),
    )


def drawn(seed, attacks=3, members=1, threshold=None):
    rng = np.random.default_rng(seed)
    sizes = [rng.choice([0.1, 0.2, 0.3], N) for _ in range(attacks)]
    found = []
    for _ in range(members):
        cells = []
        for number, size in enumerate(sizes):
            verdicts = said(rng)
            columns = ChangeColumns(l2=pack(size * 5, "<f4"), linf=pack(size, "<f4"))
            cells.append(
                cell(
                    verdicts=verdicts,
                    changes=columns,
                    adaptive=number % 2 == 0,
                    counts=tally_of(verdicts, TRUTH),
                    detection=None,
                )
            )
        found.append(Member(Shared(np.arange(N), TRUTH, said(rng), tuple(cells)), threshold))
    return found


def by_hand(members, epsilon, threshold=None):
    """Every figure image by image, in plain Python."""
    totals = {"fooled": 0.0, "wrong_or_rejected": 0.0, "wrong_label": 0.0, "every": 0}
    worst = np.zeros(len(members))
    counted = 0
    for image in range(N):
        tried = [[one.shared.benign for one in members]]
        for number in range(len(members[0].shared.cells)):
            if members[0].shared.cells[number].changes.norm("linf")[image] <= epsilon + 1e-6:
                tried.append([one.shared.cells[number].verdicts for one in members])
        shares = {"fooled": [], "wrong_or_rejected": [], "wrong_label": []}
        fooled_members = []
        for verdicts in tried:
            outcomes = []
            for one in verdicts:
                right = one.label_array[image] == TRUTH[image]
                if threshold is None:
                    accepted = one.accepted_array[image]
                else:
                    accepted = one.pass_array[image] and one.confidence_array[image] >= threshold
                outcomes.append((accepted and not right, not (accepted and right), not right))
            columns = list(zip(*outcomes, strict=True))
            for name, values in zip(shares, columns, strict=True):
                shares[name].append(sum(values) / len(values))
            fooled_members.append(columns[0])
        for name in shares:
            totals[name] += max(shares[name])
        totals["every"] += any(all(row) for row in fooled_members)
        worst += np.any(fooled_members, axis=0)
        benign = tried[0][0]
        accepted = benign.accepted_array[image]
        if threshold is not None:
            accepted = benign.pass_array[image] and benign.confidence_array[image] >= threshold
        counted += accepted or any(row[0] for row in fooled_members)
    return totals, worst, counted


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 3),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([None, 0.4, 0.7]),
)
def test_figures_are_those_counted_by_hand(seed, size, epsilon, threshold):
    members = drawn(seed, members=size, threshold=threshold)
    found = pointwise(members, Budget(epsilon=epsilon))
    totals, worst, counted = by_hand(members, epsilon, threshold)
    assert found.n == N
    for name in ("fooled", "wrong_or_rejected", "wrong_label"):
        interval = getattr(found, name)
        assert interval.value == pytest.approx(totals[name] / N)
        assert interval.low <= interval.value <= interval.high
    if size == 1:
        assert found.fooled == share(round(totals["fooled"]), N)
        assert (found.by_every, found.by_worst) == (None, None)
        expected = share(round(totals["fooled"]), int(counted)) if counted else None
        assert found.robust_error == expected
    else:
        assert found.by_every == share(totals["every"], N)
        assert found.by_worst == share(int(worst.max()), N)
        assert found.robust_error is None
        assert found.by_every.value <= found.fooled.value <= 1
        assert found.fooled.value <= found.by_worst.value * size


@pytest.mark.parametrize("size", [1, 3], ids=["one", "pool"])
def test_attacks_that_know_the_rule_are_also_counted_alone(size):
    members = drawn(3, members=size)
    knowing = [
        Member(one.shared._replace(cells=tuple(cell for cell in one.shared.cells if cell.adaptive)), None)
        for one in members
    ]
    found = pointwise(members, Budget(epsilon=0.3))
    assert found.adaptive_fooled == pointwise(knowing, Budget(epsilon=0.3)).fooled
    ignorant = [
        Member(one.shared._replace(cells=tuple(cell for cell in one.shared.cells if not cell.adaptive)), None)
        for one in members
    ]
    assert pointwise(ignorant, Budget(epsilon=0.3)).adaptive_fooled is None


def test_any_change_counts_without_a_budget():
    members = drawn(5)
    assert pointwise(members, None) == pointwise(members, Budget(epsilon=1.0))


def test_untouched_images_are_an_expectation_over_members():
    members = drawn(1, members=3)
    found = untouched(members)
    columns = [one.shared.benign for one in members]
    assert found.right_label.value == pytest.approx(np.mean([one.label_array == TRUTH for one in columns]))
    assert found.accepted.value == pytest.approx(np.mean([one.accepted_array for one in columns]))
    wrong = [one.accepted_array & (one.label_array != TRUTH) for one in columns]
    assert found.fooled.value == pytest.approx(np.mean(wrong))
