"""Whether the figures of a results file are those of the verdicts in it: a file changed by hand is noticed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from calibration.metrics import Interval, Rates, count, rate
from calibration.results.phrasing import cell_name
from calibration.results.records import Cell, Score
from calibration.results.worst_case import WorstCase, worst_cases
from runtime.errors import UsageError

IntArray = npt.NDArray[np.int64]

_ROUNDING = 1e-6
_REMEDY = "got others; run `cmt attack` again instead of changing the file"


def check_scores(benign: Score, cells: Iterable[Cell], truth: IntArray | None) -> None:
    """Check that counts follow from verdicts, and rates from counts.

    Args:
        benign: What was said to the images before any attack.
        cells: Every attack, those of sanity checks among them.
        truth: The true labels, ``(n,)``; None in files of schema 1, where counts follow from nothing.

    Raises:
        UsageError: One does not.
    """
    named: list[tuple[str, Score | Cell]] = [("the benign images", benign)]
    for name, row in [*named, *((cell_name(cell), cell) for cell in cells)]:
        counts = row.counts
        if row.verdicts is not None and truth is not None:
            counts = count(row.verdicts.outcomes(truth))
        if counts != row.counts or not _alike(_intervals(row.rates), _intervals(rate(counts))):
            raise UsageError(f"results: expected figures of {name} that follow from its verdicts, {_REMEDY}")


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
