"""What is drawn: how outcomes grow with the budget or the distance, and the ROC of the confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from calibration.detection import roc
from calibration.metrics import Interval, share
from calibration.results import Results
from calibration.results.pairs import grouped
from calibration.results.phrasing import attack_name, attack_with_strength
from calibration.results.records import Cell
from calibration.results.worst_case import least_changes

Outcome = Literal["fooled", "rejected"]

MOST_POINTS = 80
"""Points of a curve that follows single images."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a figure.

    Attributes:
        name: What the legend calls it.
        places: Where it is known, ascending.
        shares: What is known there, with intervals that are points where there are none.
    """

    name: str
    places: tuple[float, ...]
    shares: tuple[Interval, ...]


def budget_curves(cells: Sequence[Cell], outcome: Outcome) -> tuple[Curve, ...]:
    """Return one curve for each attack that has an ε; nothing unless some attack was run with several.

    Args:
        cells: All attacks under one reading of one threat.
        outcome: Which share to follow.
    """
    by_attack: dict[str, list[tuple[float, Interval]]] = {}
    for cell in cells:
        epsilon = cell.parameters.get("epsilon")
        if isinstance(epsilon, float | int):
            by_attack.setdefault(cell.attack, []).append((float(epsilon), getattr(cell.rates, outcome)))
    if all(len({epsilon for epsilon, _ in points}) < 2 for points in by_attack.values()):
        return ()
    return tuple(_through(attack_name(attack), sorted(points)) for attack, points in by_attack.items())


def distance_curves(cells: Sequence[Cell], results: Results) -> tuple[Curve, ...]:
    """Return the share fooled within each L2 distance, for attacks without a budget, which look for the least change.

    Args:
        cells: All attacks under one reading of one threat.
        results: What they are part of.
    """
    benign, truth = results.benign.verdicts, results.data.truth
    free = [cell for cell in cells if "epsilon" not in cell.parameters and cell.verdicts is not None]
    if benign is None or truth is None:
        return ()
    return tuple(
        _distances(attack_with_strength(cell), least_changes(benign, truth, [cell], norm="l2")) for cell in free
    )


def together_curves(results: Results) -> tuple[Curve, ...]:
    """Return the share fooled by any attack within each ε, L-infinity: of all attacks, and of those that know the rule.

    Nothing where no file of these results knows its single images.
    """
    benign, truth = results.benign.verdicts, results.data.truth
    known = [cell for cell in results.cells if cell.verdicts is not None]
    if benign is None or truth is None or not known:
        return ()
    adaptive = [cell for cell in known if cell.adaptive]
    kinds = {"every attack": known}
    if 0 < len(adaptive) < len(known):
        kinds["attacks that know the rule"] = adaptive
    return tuple(
        _distances(name, least_changes(benign, truth, members, norm="linf")) for name, members in kinds.items()
    )


def roc_curves(cells: Sequence[Cell], results: Results) -> tuple[Curve, ...]:
    """Return the ROC of each attack at its largest budget; none for an attack that changed no label.

    Args:
        cells: All attacks under one reading of one threat.
        results: What they are part of.
    """
    benign, truth = results.benign.verdicts, results.data.truth
    if benign is None or truth is None:
        return ()
    found = []
    for group in grouped(cells, lambda cell: cell.attack):
        cell = max(group, key=lambda one: float(one.parameters.get("epsilon") or 0))
        curve = None if cell.verdicts is None else roc(benign.scores(truth), cell.verdicts.scores(truth))
        if curve is not None:
            points = _thinned(np.stack([curve.false_positive, curve.true_positive], axis=1))
            found.append(_through(attack_with_strength(cell), [(x, Interval(y, y, y)) for x, y in points.tolist()]))
    return tuple(found)


def _distances(name: str, least: npt.NDArray[np.float64]) -> Curve:
    reached = np.sort(least[np.isfinite(least)])
    counts = np.arange(1, len(reached) + 1)
    points = _thinned(np.stack([reached, counts], axis=1))
    return _through(
        name,
        [(0.0, share(int((reached == 0).sum()), len(least)))]
        + [(place, share(int(count), len(least))) for place, count in points.tolist() if place > 0],
    )


def _thinned(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return at most `MOST_POINTS` of some points, ``(m, 2)``, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    rows = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
    return np.asarray(points[rows])


def _through(name: str, points: Sequence[tuple[float, Interval]]) -> Curve:
    places, shares = tuple(place for place, _ in points), tuple(share for _, share in points)
    return Curve(name=name, places=places, shares=shares)
