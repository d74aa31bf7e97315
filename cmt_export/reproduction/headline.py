"""The first thing to know: what somebody who knows the rule gets past the guard."""

from __future__ import annotations

from collections.abc import Mapping

from calibration.findings import FALLS_ABOVE, REJECTS_MOST
from calibration.metrics import Interval
from calibration.results.phrasing import percent, with_bounds
from cmt_export.reproduction.cell import Cell, count
from cmt_export.reproduction.claims import benign_unit
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import Unit


class Headline(Section):
    """PGD on the pair objective against the guard, at every ε."""

    name = "headline"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the guard's judgements of its own adaptive examples, and of the benign images."""
        adaptive = (_unit(sets, epsilon) for epsilon in sets.lineup.preset.epsilons)
        return (*adaptive, benign_unit(sets, sets.lineup.guard))

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return one figure for each ε."""
        return tuple(_cell(found, epsilon) for epsilon in found.lineup.preset.epsilons)

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return nothing: it stands in the summary."""
        return {}


def sentence(found: Found) -> str:
    """Return whether the defence holds, in one sentence."""
    fooled = {
        epsilon: cell.found.interval
        for epsilon in found.lineup.preset.epsilons
        if (cell := _cell(found, epsilon)).found is not None
    }
    benign = found.benign(benign_unit(found.sets, found.lineup.guard))
    rejected = None if benign is None else count(~benign.accepted)
    return phrase(fooled, None if rejected is None else rejected.interval)


def phrase(fooled: Mapping[float, Interval], rejected: Interval | None) -> str:
    """Return what shares say of the defence, in one sentence.

    Args:
        fooled: Share of images accepted and wrong, by ε.
        rejected: Share of benign images that are rejected without an attack; None where it is not known.
    """
    if not fooled:
        return "**Whether the defence holds is not known yet**: the attack by somebody who knows the rule is not run."
    strongest = max(fooled, key=lambda epsilon: fooled[epsilon].value)
    gets = f"{with_bounds(fooled[strongest])} of the images accepted and wrong at ε = {strongest:.3g}"
    who = "somebody who knows the rule and runs PGD on both heads at once"
    if fooled[strongest].value > FALLS_ABOVE:
        return f"**The defence falls**: {who} gets {gets}."
    if fooled[strongest].high > FALLS_ABOVE:
        return f"**Whether the defence holds is undecided**: {who} gets {gets}."
    if rejected is None or rejected.value > REJECTS_MOST:
        refused = "it is not known how many" if rejected is None else with_bounds(rejected)
        return f"**Whether the defence holds is undecided**: {who} gets {gets}, but {refused} are rejected unattacked."
    return (
        f"**The defence holds against what was tried**, and only that: {who} gets {gets}, under {percent(FALLS_ABOVE)}."
    )


def _unit(sets: Sets, epsilon: float) -> JudgeSet:
    guard = sets.lineup.guard
    return JudgeSet(judge=guard, parts=sets.pgd(guard, epsilon=epsilon))


def _cell(found: Found, epsilon: float) -> Cell:
    unit = _unit(found.sets, epsilon)
    judged = found.judged(unit.judge, unit.parts)
    return Cell(
        name=("headline", "PGD on the pair objective, fooled", f"ε = {epsilon:.3g}"),
        published=None,
        better="lower",
        found=None if judged is None else count(judged.generated[0]),
        unit=unit,
    )
