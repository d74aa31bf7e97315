"""What results allow to be said: one verdict on the file, how far it reaches, and what the defence costs.

| verdict | given when |
|---|---|
| `untested` | there is no attack |
| `falls` | an attack, or all of them together, got more than `FALLS_ABOVE` of the images accepted and wrong |
| `undecided` | none did, but one reason below stands against `holds` |
| `holds` | otherwise, against what was tried |

The reasons: the 95 % interval of an attack, or of all together, reaches above `FALLS_ABOVE`; the file rejects more
than `REJECTS_MOST` of the benign images, so that there is little it could be fooled on; every attack had a budget of 0,
within which there is nothing to withstand; a sanity check failed; nobody attacked both along gradients and by verdicts
alone within one budget, so that masked gradients would look the same.

An attack without a budget succeeds on every classifier in the end. It counts by the images it changed within a budget
that others were given; where there is none, by all. Attacks of a sanity check count unless they were unbounded.

A verdict is about the attacks in the results alone. Whether one of them knew the rule is always said beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from calibration.availability import UNCHANGED
from calibration.metrics import Interval
from calibration.results import Results
from calibration.results.phrasing import PROBE_NOTES, cell_name, complement, percent, radius, with_bounds
from calibration.results.records import Cell
from calibration.results.worst_case import budget_of
from calibration.sanity import MASKING, SanityVerdict, check_sanity

FALLS_ABOVE = 0.05
"""Largest share of attacked images that may be accepted and wrong."""

REJECTS_MOST = 0.5
"""Share of benign images; a file that rejects more of them withstands attacks by answering nothing."""

Kind = Literal["untested", "falls", "undecided", "holds"]

COUNTED_PROBES = ("one step", "doubled", "noise", "decisions")
"""Purposes of sanity checks whose attacks count as attacks."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on one file.

    Attributes:
        kind: See the module.
        sentence: The verdict in plain words, one line.
        scope: How far it reaches: whether an attack that knows the rule was run, and what such attacks reach.
        cost: What the defence costs benign users, attacked or not.
        worst: The attack that gets furthest; None where nothing was tried.
        worst_name: What it is called.
        sanity: The verdict of every sanity check.
    """

    kind: Kind
    sentence: str
    scope: str
    cost: str
    worst: Cell | None
    worst_name: str
    sanity: tuple[SanityVerdict, ...]

    @property
    def failed(self) -> tuple[SanityVerdict, ...]:
        """The sanity checks that failed."""
        return tuple(one for one in self.sanity if one.verdict == "failed")


def conclude(results: Results) -> Finding:
    """Return the verdict on the attacked file."""
    sanity, cost = check_sanity(results), _cost(results)
    if not results.cells:
        nothing = "Nothing was tried: no attack was run on this file."
        return Finding(
            kind="untested", sentence=nothing, scope=_scope(()), cost=cost, worst=None, worst_name="", sanity=sanity
        )
    kind, sentence = _judge(results, sanity)
    worst = _worst(_counted(results) or results.cells)
    return Finding(
        kind=kind,
        sentence=sentence,
        scope=_scope(results.cells),
        cost=cost,
        worst=worst,
        worst_name=_names(results)[id(worst)],
        sanity=sanity,
    )


class _Claim(NamedTuple):
    """Some share of images accepted and wrong, and who gets it."""

    fooled: Interval
    by: str
    gets: str


def _judge(results: Results, sanity: Sequence[SanityVerdict]) -> tuple[Kind, str]:
    claims = _claims(results)
    worst = max(claims, key=lambda claim: claim.fooled.value)
    if worst.fooled.value > FALLS_ABOVE:
        return "falls", f"Falls: {worst.by} {worst.gets} {with_bounds(worst.fooled)} of images accepted and wrong."
    widest = max(claims, key=lambda claim: claim.fooled.high)
    if widest.fooled.high > FALLS_ABOVE:
        got = f"{widest.by} {widest.gets} {with_bounds(widest.fooled)} of {results.benign.counts.n} images"
        above = f"the interval reaches above {percent(FALLS_ABOVE, digits=0)}"
        return "undecided", f"Undecided: {got} accepted and wrong; {above}."
    refused = results.benign.rates.rejected
    if refused.value > REJECTS_MOST:
        much = f"without an attack {with_bounds(refused)} of {results.benign.counts.n} images are rejected"
        return "undecided", f"Undecided: {much}; a file that hardly accepts anything is fooled by hardly anything."
    if not any(budget is None or budget.epsilon > 0 for budget in map(budget_of, results.cells)):
        return "undecided", "Undecided: ε = 0 allows no change at all; attack it within a larger one."
    failed = next((one for one in sanity if one.verdict == "failed"), None)
    if failed is not None:
        return "undecided", f"Undecided: a sanity check failed, “{failed.name}”: {failed.figures}."
    by = f"by {worst.by}" if worst.fooled.value else "by any attack below"
    most = f"at most {with_bounds(worst.fooled)} of images accepted and wrong, {by}"
    unasked = next((one for one in sanity if one.name == MASKING and one.verdict == "not run"), None)
    if unasked is not None:
        return (
            "undecided",
            f"Undecided: {most}, but masked gradients would look the same: “{MASKING}” {unasked.figures}.",
        )
    return "holds", f"Holds against what was tried{_reach(results)}: {most}."


def _reach(results: Results) -> str:
    """Return the largest budget of each norm in brackets: what holds within a small one says nothing about a larger."""
    largest: dict[str, float] = {}
    for row in results.worst_cases:
        if row.norm is not None and row.epsilon is not None:
            largest[row.norm] = max(row.epsilon, largest.get(row.norm, 0.0))
    budgets = " and ".join(radius(norm, epsilon) for norm, epsilon in largest.items())
    return f" (up to {budgets})" if budgets else ""


def _claims(results: Results) -> list[_Claim]:
    """Return what counts, attacks before all of them together: the first of several equal ones is named."""
    names = _names(results)
    single = [_Claim(cell.rates.fooled, names[id(cell)], "gets") for cell in _counted(results)]
    bounded = [row for row in results.worst_cases if row.epsilon is not None and not row.adaptive] or [
        row for row in results.worst_cases if row.epsilon is not None
    ]
    together = [
        _Claim(row.fooled, f"all attacks together within {radius(row.norm, row.epsilon)}", "get") for row in bounded
    ]
    return [*single, *together]


def _names(results: Results) -> dict[int, str]:
    """Return what to call each attack, by its identity; one that was run for a sanity check is told from its model."""
    probes = {id(probe.cell): cell_name(probe.cell) + PROBE_NOTES.get(probe.purpose, "") for probe in results.probes}
    return {**probes, **{id(cell): cell_name(cell) for cell in results.cells}}


def _counted(results: Results) -> list[Cell]:
    """Return attacks that count by themselves: those with a budget, or all where the worst cases have none either."""
    cells = [*results.cells, *(probe.cell for probe in results.probes if probe.purpose in COUNTED_PROBES)]
    if not any(row.epsilon is not None for row in results.worst_cases):
        return cells
    return [cell for cell in cells if budget_of(cell) is not None or cell.verdicts is None]


def _cost(results: Results) -> str:
    """Return what benign users pay: rejections without an attack, and after a harmless change."""
    benign = f"Without an attack {with_bounds(results.benign.rates.rejected)} of the images are rejected"
    changed = [one for one in results.availability if one.invisible and one.change != UNCHANGED]
    if not changed:
        return f"{benign}; what harmless changes do was not measured."
    worst = min(changed, key=lambda one: one.accepted.value)
    return f"{benign}, and {with_bounds(complement(worst.accepted))} after a harmless change ({worst.change})."


def _scope(cells: Sequence[Cell]) -> str:
    adaptive = [cell for cell in cells if cell.adaptive]
    if not adaptive:
        return "No attack that knows the rule was run: this says nothing about one."
    best = _worst(adaptive)
    known = f"{len(adaptive)} of {len(cells)} attacks know the rule"
    if best is _worst(cells):
        told = f"{known}, the strongest among them."
    else:
        told = f"{known}; the best of them, {cell_name(best)}, gets {with_bounds(best.rates.fooled)}."
    ignorant = [cell for cell in cells if not cell.adaptive]
    if not ignorant:
        return told
    return f"{told} Attacks that ignore the rule get {with_bounds(_worst(ignorant).rates.fooled)} at most."


def _worst(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=lambda cell: cell.rates.fooled)
