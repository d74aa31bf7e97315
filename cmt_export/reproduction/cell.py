"""One figure of a table: what the paper published, what came out here with its interval, and what to make of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from calibration.metrics import Interval, share
from cmt_export.reproduction.unit import Unit

Better = Literal["higher", "lower"]
Verdict = Literal["beats", "matches", "does not reproduce", "not published", "undefined", "not run yet"]

MEANINGS: dict[Verdict, str] = {
    "beats": "better than published, and so is the whole 95 % interval",
    "matches": "at least as good as published, or no worse than the 95 % interval allows",
    "does not reproduce": "worse than published by more than the 95 % interval allows",
    "not published": "the paper has no such figure",
    "undefined": "there is nothing to count: a share of no images",
    "not run yet": "the work behind it is not done",
}
"""What each verdict says. Better is higher for the defence's accuracy and detection, lower for the accuracy that an
attack leaves the undefended network: there it says that the attack is no weaker than the paper's."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """So many of so many.

    Attributes:
        part: Successes, in [0, whole].
        whole: Trials, at least 1.
    """

    part: int
    whole: int

    @property
    def interval(self) -> Interval:
        """The share with its exact 95 % interval."""
        return share(self.part, self.whole)


def count(mask: npt.NDArray[np.bool_]) -> Count | None:
    """Return how many of ``(n,)`` are true; None of none."""
    return Count(part=int(mask.sum()), whole=len(mask)) if len(mask) else None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure.

    Attributes:
        name: Which, in words: table, threat, model, column, reading and option.
        published: The paper's share; None where it has none.
        better: Which direction is better.
        found: Ours; None while it is not run, or where there is nothing to count.
        unit: What it was counted on.
        option: What it departs from the paper's settings in; empty for the headline.
        caveat: What a reader must know beside the verdict.
        undefined: Whether it was run, and there is nothing to count.
    """

    name: tuple[str, ...]
    published: float | None
    better: Better
    found: Count | None
    unit: Unit
    option: str = ""
    caveat: str = ""
    undefined: bool = False

    @property
    def verdict(self) -> Verdict:
        """How ours stands to the paper's; see `MEANINGS`."""
        if self.found is None:
            return "undefined" if self.undefined else "not run yet"
        if self.published is None:
            return "not published"
        interval = self.found.interval
        if self.better == "higher":
            worst, ours, best = interval.low, interval.value, interval.high
            return _verdict(worst > self.published, ours >= self.published, best >= self.published)
        worst, ours, best = interval.high, interval.value, interval.low
        return _verdict(worst < self.published, ours <= self.published, best <= self.published)

    @property
    def reproduces(self) -> bool:
        """Whether ours matches or beats the paper's."""
        return self.verdict in ("beats", "matches")

    def to_json(self, key: str, digest: str | None) -> dict[str, Any]:
        """Return everything about it.

        Args:
            key: Key of its unit.
            digest: Digest of what that unit left; None while it is not run.
        """
        interval = None if self.found is None else list(self.found.interval)
        return {
            "name": list(self.name),
            "option": self.option,
            "published": self.published,
            "better": self.better,
            "count": None if self.found is None else self.found.part,
            "n": None if self.found is None else self.found.whole,
            "interval": interval,
            "verdict": self.verdict,
            "caveat": self.caveat,
            "unit": key,
            "digest": digest,
        }


def nearest(cell: Cell, others: list[Cell]) -> Cell | None:
    """Return what does best by the paper's figure, the cell itself or an alternative; None where none was run."""
    run = [other for other in others if other.found is not None]
    if cell.published is None or not run:
        return None
    sign = 1 if cell.better == "higher" else -1
    return max([cell, *run], key=lambda one: (one.reproduces, sign * (one.found.interval.value if one.found else -1.0)))


def _verdict(beats: bool, at_least: bool, allowed: bool) -> Verdict:
    return "beats" if beats else "matches" if at_least or allowed else "does not reproduce"
