"""Which of two attacks succeeds more often, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.metrics import Interval, share
from calibration.results.records import Cell

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Goal = Literal["fooled", "label"]
"""What counts: accepted and wrong, or a wrong label, the rule ignored."""


class Pair(NamedTuple):
    """Two attacks of which the first should not succeed more often.

    Attributes:
        weaker: What should succeed no more often.
        stronger: Than this.
        goal: What counts as success of both.
        note: What to add to the name of the weaker one, where both have the same.
    """

    weaker: Cell
    stronger: Cell
    goal: Goal
    note: str = ""


def own_goal(cell: Cell) -> Goal:
    """Return what an attack strives for: an attacker who does not know the rule wants a wrong label."""
    return "fooled" if cell.adaptive else "label"


def success(cell: Cell, goal: Goal) -> Interval:
    """Return the share of images on which an attack reached a goal."""
    counts = cell.counts
    return cell.rates.fooled if goal == "fooled" else share(counts.n - counts.right_label, counts.n)


def best(cells: Iterable[Cell], goal: Goal) -> Cell | None:
    """Return the attack that succeeds most often; None of none."""
    return max(cells, key=lambda cell: success(cell, goal).value, default=None)


def surprising(pair: Pair, truth: IntArray | None) -> bool:
    """Return whether the weaker attack succeeds more often than the stronger one, and chance does not explain it.

    Where the verdicts on each image are known, the images that only one of them wins decide: a fair coin would have to
    fall that way with a probability below 2.5 %. Elsewhere the intervals of both must not touch.

    Args:
        pair: Both attacks, on the same images.
        truth: True labels, ``(n,)``; None where they are not known.

    Source: McNemar 1947, in its exact form, for paired shares.
    """
    weak, strong = (_mask(cell, pair.goal, truth) for cell in (pair.weaker, pair.stronger))
    if weak is None or strong is None or len(weak) != len(strong):
        return success(pair.weaker, pair.goal).low > success(pair.stronger, pair.goal).high
    only_weak, only_strong = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    return only_weak > 0 and share(only_weak, only_weak + only_strong).low > 0.5


def excess(pair: Pair) -> float:
    """Return by how much the share of the weaker attack is above that of the stronger one, in [-1, 1]."""
    return success(pair.weaker, pair.goal).value - success(pair.stronger, pair.goal).value


def grouped(cells: Sequence[Cell], key: Callable[[Cell], object]) -> list[list[Cell]]:
    """Return cells of equal keys together, in the order they come."""
    groups: dict[object, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


def _mask(cell: Cell, goal: Goal, truth: IntArray | None) -> BoolArray | None:
    if cell.verdicts is None or truth is None:
        return None
    outcomes = cell.verdicts.outcomes(truth)
    return outcomes.fooled if goal == "fooled" else ~outcomes.right_label
