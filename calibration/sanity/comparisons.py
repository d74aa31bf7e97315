"""Sanity checks that compare attacks: what should succeed more often than what."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from calibration.results import Results
from calibration.results.pairs import Pair, best, grouped, own_goal
from calibration.results.phrasing import PROBE_NOTES, cell_name, radius
from calibration.results.records import Cell
from calibration.results.worst_case import budget_of, submitted
from calibration.sanity.check import NOT_RUN, Found, judge_pairs

_ITERATIVE = ("igs", "pgd", "apgd")
_FREE = ("epsilon", "step_size")


def one_step(results: Results) -> Found:
    """Return whether iterative attacks beat the one-step attack they contain."""

    def pairs() -> Iterator[Pair]:
        cells = [cell for cell in (*results.cells, *results.probed("one step")) if _ball(cell)]
        for group in grouped(cells, lambda cell: (cell.threat, cell.reading, cell.source.digest, _ball(cell))):
            goal = own_goal(group[0])
            strong = best((cell for cell in group if cell.attack in _ITERATIVE), goal)
            if strong is not None:
                yield from (Pair(cell, strong, goal) for cell in group if cell.attack == "fgs")

    return judge_pairs(pairs(), results)


def transfer(results: Results) -> Found:
    """Return whether attacks on the file itself beat those on other files."""
    digest = results.model.digest
    gradients = [cell for cell in results.cells if cell.gradients_per_image > 0]
    own = [cell for cell in gradients if cell.source.digest == digest]
    return judge_pairs(_by_ball(own, [cell for cell in gradients if cell.source.digest != digest]), results)


def ignorance(results: Results) -> Found:
    """Return whether attackers who know the rule beat those on the same file who ignore it."""
    own = [cell for cell in results.cells if cell.source.digest == results.model.digest]
    knowing = [cell for cell in own if cell.threat == "nearly-white-box"]
    return judge_pairs(_by_ball(knowing, [cell for cell in own if cell.threat == "grey-box"]), results)


def decisions(results: Results) -> Found:
    """Return whether gradients beat decisions."""
    own = [cell for cell in results.cells if cell.gradients_per_image > 0]
    asked = [cell for cell in results.cells if cell.source.tensor == "verdicts"]
    return judge_pairs(_by_ball(own, [*asked, *results.probed("decisions")]), results)


def from_outside(results: Results) -> Found:
    """Return whether gradient attacks held to a ball beat those that may go anywhere, where those ended within it."""
    benign, truth = results.benign.verdicts, results.data.truth
    if benign is None or truth is None:
        return NOT_RUN
    adaptive = [cell for cell in results.cells if cell.adaptive and cell.gradients_per_image > 0]
    free = [cell for cell in adaptive if not _ball(cell) and cell.verdicts is not None]
    bound = [cell for cell in adaptive if _ball(cell) and cell.attack in _ITERATIVE]

    def pairs() -> Iterator[Pair]:
        for group in grouped([cell for cell in bound if cell.threat == "nearly-white-box"], _ball):
            held, budget = best(group, "fooled"), budget_of(group[0])
            assert held is not None
            assert budget is not None
            note = f" within {radius(budget.norm, budget.epsilon)}"
            yield from (Pair(submitted(cell, budget, benign, truth), held, "fooled", note) for cell in free)

    return judge_pairs(pairs(), results)


def pre_lock(results: Results) -> Found:
    """Return whether gradients from behind the lock beat those from before it."""
    after = [cell for cell in results.cells if cell.threat == "nearly-white-box"]
    return judge_pairs(_by_ball(after, [cell for cell in results.cells if cell.threat == "pre-lock"]), results)


def budgets(results: Results) -> Found:
    """Return whether each attack succeeds more often within a larger ball."""
    tried = (*results.cells, *results.probed("unbounded"))

    def same(cell: Cell) -> str:
        rest = {name: value for name, value in cell.parameters.items() if name not in _FREE}
        return repr((cell.threat, cell.reading, cell.attack, cell.source.digest, sorted(rest.items(), key=str)))

    def pairs() -> Iterator[Pair]:
        for group in grouped([cell for cell in tried if _ball(cell)], same):
            ordered = sorted(group, key=lambda cell: float(cell.parameters["epsilon"]))
            for smaller, larger in itertools.pairwise(ordered):
                yield Pair(smaller, larger, own_goal(smaller))

    return judge_pairs(pairs(), results)


def doubled_work(results: Results) -> Found:
    """Return whether twice the work changes nothing."""
    planned = {cell_name(cell): cell for cell in results.cells}
    doubled = [probe for probe in results.probes if probe.purpose == "doubled" and probe.of in planned]
    return judge_pairs(
        (Pair(one.cell, planned[one.of], own_goal(one.cell), PROBE_NOTES["doubled"]) for one in doubled), results
    )


def _by_ball(strong: list[Cell], weak: list[Cell]) -> Iterator[Pair]:
    """Yield the best of both kinds within each budget; adaptive attacks stand for the strong kind where there are."""
    for group in grouped([*strong, *weak], _ball):
        if _ball(group[0]) is None:
            continue
        candidates = [cell for cell in group if cell in strong]
        ahead = best([cell for cell in candidates if cell.adaptive] or candidates, "fooled")
        behind = best((cell for cell in group if cell in weak), "fooled")
        if ahead is not None and behind is not None:
            yield Pair(behind, ahead, "fooled")


def _ball(cell: Cell) -> tuple[str, float] | None:
    budget = budget_of(cell)
    return None if budget is None else (budget.norm, budget.epsilon)
