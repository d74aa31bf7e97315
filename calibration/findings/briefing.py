"""What a manager has to know: what a file withstands, what it does not, and what it costs its users."""

from __future__ import annotations

from dataclasses import dataclass, replace

from calibration.availability import UNCHANGED, Availability
from calibration.findings.conclusion import FALLS_ABOVE, REJECTS_MOST
from calibration.results import Results
from calibration.results.pairs import grouped
from calibration.results.phrasing import attack_with_strength, threat_name, with_bounds
from calibration.results.records import Cell
from calibration.results.worst_case import budget_of
from calibration.sanity.figures import availability


@dataclass(frozen=True, kw_only=True)
class Line:
    """One attacker in one line.

    Attributes:
        attacker: Threat and reading.
        adaptive: Whether he knows the rule.
        said: The best of his attacks and what it gets.
    """

    attacker: str
    adaptive: bool
    said: str


@dataclass(frozen=True, kw_only=True)
class Briefing:
    """The first screen of a report.

    Attributes:
        falls_to: Attackers whose best attack gets more than `FALLS_ABOVE` of the images, the strongest first.
        undecided: Attackers whose best attack may get more: its interval reaches that far, or the file rejects more
            than `REJECTS_MOST` of the benign images, which is no way to withstand anybody.
        withstands: All others.
        worst_change: The harmless change that costs most acceptance; None where none was tried.
        unavailable: Whether it costs more than a sanity check lets pass.
    """

    falls_to: tuple[Line, ...]
    undecided: tuple[Line, ...]
    withstands: tuple[Line, ...]
    worst_change: Availability | None
    unavailable: bool


def brief(results: Results) -> Briefing:
    """Return the first screen of some results."""
    falls: list[Line] = []
    unsure: list[Line] = []
    withstood: list[Line] = []
    mute = results.benign.rates.rejected.value > REJECTS_MOST
    for group in grouped(results.cells, lambda cell: (cell.threat, cell.reading)):
        fooled = _best(group).rates.fooled
        kind = falls if fooled.value > FALLS_ABOVE else unsure if fooled.high > FALLS_ABOVE or mute else withstood
        line = _line(group)
        if kind is unsure and fooled.high <= FALLS_ABOVE:
            line = replace(line, said=f"{line.said}, but most benign images are rejected too")
        kind.append(line)
    changed = [one for one in results.availability if one.invisible and one.change != UNCHANGED]
    return Briefing(
        falls_to=tuple(falls),
        undecided=tuple(unsure),
        withstands=tuple(withstood),
        worst_change=min(changed, key=lambda one: one.accepted.value, default=None),
        unavailable=availability(results).verdict == "failed",
    )


def _best(cells: list[Cell]) -> Cell:
    """Return the best attack of those with a budget; an attack without one succeeds on everything in the end."""
    bounded = [cell for cell in cells if budget_of(cell) is not None]
    return max(bounded or cells, key=lambda cell: cell.rates.fooled)


def _line(cells: list[Cell]) -> Line:
    best = _best(cells)
    by = attack_with_strength(best) if best.counts.fooled or len(cells) == 1 else f"none of {len(cells)} attacks"
    return Line(
        attacker=threat_name(best.threat, best.reading),
        adaptive=best.adaptive,
        said=f"{by} fools {'any image: ' if by.startswith('none') else ''}{with_bounds(best.rates.fooled)}",
    )
