"""Whether the figures of a results file are those of the verdicts in it: a file changed by hand is noticed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from calibration.metrics import Interval, Rates, count, rate
from calibration.results.detection_figures import DetectionFigures, detection_figures
from calibration.results.image_columns import VerdictColumns
from calibration.results.phrasing import cell_name
from calibration.results.records import Cell, Score
from calibration.results.worst_case import WorstCase, worst_cases
from runtime.errors import UsageError

IntArray = npt.NDArray[np.int64]

_ROUNDING = 1e-6
_PRECISION = 1e-3
_SHARES = tuple(each.name for each in fields(DetectionFigures) if each.name not in ("threshold_at_99", "undefined"))
_REMEDY = "got others; run `cmt attack` again instead of changing the file"


def check_scores(benign: Score, cells: Iterable[Cell], truth: IntArray | None, *, threshold: float | None) -> None:
    """Check that every figure of an attack follows from its verdicts and changes, and verdicts from the threshold.

    Args:
        benign: What was said to the images before any attack.
        cells: Every attack, those of sanity checks among them.
        truth: The true labels, ``(n,)``; None in files of schema 1, where counts follow from nothing.
        threshold: Of the file that judged; None where that is another one than judged the benign images.

    Raises:
        UsageError: One does not.
    """
    named: list[tuple[str, Score | Cell]] = [("the benign images", benign)]
    for name, row in [*named, *((cell_name(cell), cell) for cell in cells)]:
        if not (_counts_follow(row, truth, threshold) and (isinstance(row, Score) or _measures_follow(row))):
            raise UsageError(f"results: expected figures of {name} that follow from its verdicts, {_REMEDY}")
        if isinstance(row, Cell) and threshold is not None and not _detection_follows(row, benign, truth, threshold):
            raise UsageError(f"results: expected figures of detecting {name} that follow from its verdicts, {_REMEDY}")


def _counts_follow(row: Score | Cell, truth: IntArray | None, threshold: float | None) -> bool:
    counts = row.counts
    if row.verdicts is not None and truth is not None:
        counts = count(row.verdicts.outcomes(truth))
        if threshold is not None and not _accepted_follows(row.verdicts, truth, threshold):
            return False
    return counts == row.counts and _alike(_intervals(row.rates), _intervals(rate(counts)))


def _accepted_follows(verdicts: VerdictColumns, truth: IntArray, threshold: float) -> bool:
    accepted = verdicts.scores(truth).accepted(float(np.float32(threshold)))
    return np.array_equal(accepted, verdicts.accepted_array)


def _measures_follow(cell: Cell) -> bool:
    """Return whether lengths are those of the changes, up to the rounding that changes are stored with."""
    if not 0 <= cell.zero_gradients <= cell.counts.n:
        return False
    if cell.changes is None:
        return True
    l2, linf = cell.changes.norm("l2"), cell.changes.norm("linf")
    stated = (cell.mean_l2, cell.mean_linf, cell.largest_linf)
    return np.allclose(stated, (l2.mean(), linf.mean(), linf.max()), rtol=_PRECISION, atol=_ROUNDING)


def _detection_follows(cell: Cell, benign: Score, truth: IntArray | None, threshold: float) -> bool:
    if benign.verdicts is None or cell.verdicts is None or truth is None:
        return True
    again = detection_figures(benign.verdicts.scores(truth), cell.verdicts.scores(truth), threshold=threshold)
    found = cell.detection
    if found is None or found.undefined.keys() != again.undefined.keys():
        return False
    if (found.threshold_at_99 is None) != (again.threshold_at_99 is None):
        return False
    shares = [[getattr(one, name) for name in _SHARES] for one in (found, again)]
    return _alike(*shares) and _close(found.threshold_at_99 or 0.0, again.threshold_at_99 or 0.0)


def check_worst_cases(found: Sequence[WorstCase], benign: Score, cells: Sequence[Cell], truth: IntArray | None) -> None:
    """Check that the worst cases follow from the verdicts under every attack.

    Args:
        found: Those of the file.
        benign: What was said to the images before any attack.
        cells: Every attack but those of sanity checks.
        truth: The true labels, ``(n,)``; None in files of schema 1, which have no worst cases.

    Raises:
        UsageError: One does not.
    """
    if benign.verdicts is None or truth is None:
        return
    again = worst_cases(benign.verdicts, truth, cells)
    same = len(found) == len(again) and all(
        (one.norm, one.epsilon, one.adaptive, one.n) == (other.norm, other.epsilon, other.adaptive, other.n)
        and _alike(_shares(one), _shares(other))
        for one, other in zip(found, again, strict=True)
    )
    if not same:
        raise UsageError(f"results: expected worst cases that follow from the verdicts, {_REMEDY}")


def _intervals(rates: Rates) -> tuple[Interval | None, ...]:
    return rates.correct, rates.rejected, rates.fooled, rates.right_label, rates.error_when_accepted


def _shares(row: WorstCase) -> tuple[Interval | None, ...]:
    return row.fooled, row.fooled_at_99, row.wrong_or_rejected


def _alike(some: Sequence[Interval | None], others: Sequence[Interval | None]) -> bool:
    """Return whether intervals are the same up to the rounding of another version of SciPy."""
    return all(
        one is other or (one is not None and other is not None and all(map(_close, one, other)))
        for one, other in zip(some, others, strict=True)
    )


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, abs_tol=_ROUNDING)
