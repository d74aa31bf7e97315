"""The pointwise worst case: what an attacker achieves who tries every attack on each image and keeps the best.

The mean over attacks means nothing to a defender, and the best single attack flatters him: attacks fail on different
images. An image counts within a budget when any attack fools the guard on it with a change within that budget, whatever
budget the attack was given; doing nothing is an attack as well.

Source: Croce and Hein 2020 (Reliable evaluation of adversarial robustness), section 4: worst case over an ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from calibration.attacks.norms import Budget
from calibration.detection import BENIGN_ACCEPTANCE, threshold_at
from calibration.metrics import Interval, count, rate, share
from calibration.results.image_columns import ChangeColumns, VerdictColumns
from calibration.results.records import Cell

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Mask = Callable[[VerdictColumns], BoolArray]

_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """What all attacks together achieve on the same images within one budget.

    Attributes:
        norm: How changes are measured, ``linf`` or ``l2``; None where any change is allowed.
        epsilon: The largest change; None where any is allowed.
        adaptive: Whether only attacks that know the rule were taken.
        attacks: How many attacks changed at least one image within the budget.
        n: Images.
        fooled: Accepted and wrong under one attack at least, at the threshold of the file.
        fooled_at_99: The same at the threshold that accepts 99 % of the correctly classified benign images; None where
            the hard rule alone rejects more.
        wrong_or_rejected: Wrong or rejected under one attack at least: error without credit for rejection.
    """

    norm: str | None
    epsilon: float | None
    adaptive: bool
    attacks: int
    n: int
    fooled: Interval
    fooled_at_99: Interval | None
    wrong_or_rejected: Interval


def worst_cases(benign: VerdictColumns, truth: IntArray, cells: Sequence[Cell]) -> tuple[WorstCase, ...]:
    """Return one row for each budget that was tried, the largest first, each for all attacks and for adaptive ones.

    The row of the adaptive ones is left out where it is that of all. Without any budget, or beside attacks that have
    none, there is a row for any change.

    Args:
        benign: The verdicts on the images before any attack.
        truth: Their true labels, ``(n,)``.
        cells: The attacks; those of a file of schema 1 have no verdicts and are left out.
    """
    known = [cell for cell in cells if cell.verdicts is not None]
    if not known:
        return ()
    rows = []
    for budget in _budgets(known):
        adaptive = [cell for cell in known if cell.adaptive]
        rows.append(_row(benign, truth, known, budget=budget, adaptive=not len(known) > len(adaptive)))
        if 0 < len(adaptive) < len(known):
            rows.append(_row(benign, truth, adaptive, budget=budget, adaptive=True))
    return tuple(rows)


def least_changes(
    benign: VerdictColumns, truth: IntArray, cells: Sequence[Cell], *, norm: str
) -> npt.NDArray[np.float64]:
    """Return the length of the least change by which any attack fooled the guard on each image, ``(n,)``.

    0 where it is fooled without one, infinite where no attack fooled it.

    Args:
        benign: The verdicts on the images before any attack.
        truth: Their true labels, ``(n,)``.
        cells: The attacks; those without verdicts are left out.
        norm: ``linf`` or ``l2``.
    """
    least = np.where(benign.outcomes(truth).fooled, 0.0, np.inf)
    for verdicts, changes in _columns(cells):
        least = np.minimum(least, np.where(verdicts.outcomes(truth).fooled, changes.norm(norm), np.inf))
    return least


def budget_of(cell: Cell) -> Budget | None:
    """Return the ball an attack had to stay in; None where it has none."""
    epsilon = cell.parameters.get("epsilon")
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float):
        return None
    return Budget(epsilon=float(epsilon), norm=cell.parameters.get("norm", "linf"))


def submitted(cell: Cell, budget: Budget, benign: VerdictColumns, truth: IntArray) -> Cell:
    """Return what an attack comes to when images it changed beyond a budget are submitted without any change.

    Args:
        cell: The attack, whatever budget it was given, with verdicts and changes.
        budget: The ball.
        benign: The verdicts on the images before any attack.
        truth: Their true labels, ``(n,)``.
    """
    assert cell.verdicts is not None
    assert cell.changes is not None
    verdicts = cell.verdicts.where(kept_within(cell.changes, budget), benign)
    counts = count(verdicts.outcomes(truth))
    return replace(cell, verdicts=verdicts, counts=counts, rates=rate(counts))


def kept_within(changes: ChangeColumns, budget: Budget | None) -> BoolArray:
    """Return which images were changed within a budget, whatever budget the attack was given, ``(n,)`` bool."""
    if budget is None:
        return np.ones(len(changes.norm("l2")), dtype=np.bool_)
    return np.asarray(changes.norm(budget.norm) <= budget.epsilon + _ROUNDING * max(1, budget.epsilon))


def _budgets(cells: Sequence[Cell]) -> list[Budget | None]:
    found = [budget_of(cell) for cell in cells]
    bounded = {budget for budget in found if budget is not None}
    ordered: list[Budget | None] = [*sorted(bounded, key=lambda one: (one.norm != "linf", -one.epsilon))]
    return [*ordered, None] if None in found else ordered


def _row(
    benign: VerdictColumns, truth: IntArray, cells: Sequence[Cell], *, budget: Budget | None, adaptive: bool
) -> WorstCase:
    threshold = threshold_at(benign.scores(truth), acceptance=BENIGN_ACCEPTANCE)
    columns = _columns(cells)
    within = [kept_within(changes, budget) for _, changes in columns]

    def ever(mask: Mask) -> Interval:
        hit = mask(benign).copy()
        for (verdicts, _), reached in zip(columns, within, strict=True):
            hit |= mask(verdicts) & reached
        return share(int(hit.sum()), len(hit))

    def at_99(verdicts: VerdictColumns) -> BoolArray:
        scores = verdicts.scores(truth)
        return np.asarray(scores.accepted(threshold or 0.0) & ~scores.right)

    return WorstCase(
        norm=None if budget is None else budget.norm,
        epsilon=None if budget is None else budget.epsilon,
        adaptive=adaptive,
        attacks=sum(
            bool((reached & (changes.norm("linf") > 0)).any())
            for (_, changes), reached in zip(columns, within, strict=True)
        ),
        n=len(truth),
        fooled=ever(lambda verdicts: verdicts.outcomes(truth).fooled),
        fooled_at_99=None if threshold is None else ever(at_99),
        wrong_or_rejected=ever(lambda verdicts: ~verdicts.outcomes(truth).correct),
    )


def _columns(cells: Sequence[Cell]) -> list[tuple[VerdictColumns, ChangeColumns]]:
    return [(cell.verdicts, cell.changes) for cell in cells if cell.verdicts is not None and cell.changes is not None]
