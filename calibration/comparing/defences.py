"""Every defence beside every other: results of different guards on one data set as one comparison.

Results of one guard, or of one pool, are joined first; each then is one row. Nothing is compared across different
images without a word: other data, another seed or another rounding is refused, a smaller sample stands in every cell.

The headline is *fooled at 99 %*: accepted and wrong by a file that accepts 99 % of the benign images it gets right.
Where the file was calibrated to that, its own threshold is the one that was attacked and counts. Where it was not, the
threshold is chosen on the benign sample after the attack, which flatters the defence, and the row says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from calibration.attacks.norms import Budget
from calibration.availability import UNCHANGED
from calibration.comparing.names import applies, kind_of, row_names
from calibration.comparing.pointwise import Member, pointwise, untouched
from calibration.comparing.published import published_for
from calibration.comparing.records import AtBudget, Comparison, Defence, File, Images, ThresholdKind, Tried
from calibration.detection import BENIGN_ACCEPTANCE, threshold_at
from calibration.findings import REJECTS_MOST, Kind, conclude
from calibration.results import PoolResults, Results
from calibration.results.joining import Shared, join, shared_images
from calibration.results.phrasing import cell_name
from calibration.results.records import Cell
from calibration.results.resuming import key_of
from calibration.results.worst_case import budget_of
from calibration.sanity.figures import unbounded
from runtime.errors import UsageError

Order = Literal["strongest", "given"]
ORDERS: tuple[str, ...] = get_args(Order)

_SEVERITY: tuple[Kind, ...] = ("holds", "undecided", "untested", "falls")
_SAME: tuple[tuple[str, Callable[[Results], object]], ...] = (
    ("data set", lambda part: part.data.digest),
    ("split", lambda part: part.data.split),
    ("seed", lambda part: part.data.seed),
    ("rounding to 8 bits", lambda part: part.data.eight_bit),
)


class _Row(NamedTuple):
    """All results of one guard, or of one pool."""

    parts: tuple[tuple[Results, ...], ...]  # for each member its results
    joined: tuple[Results, ...]
    members: tuple[Member, ...]
    threshold: ThresholdKind

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.members[0].shared.cells


def compare(
    found: Sequence[tuple[str, Results | PoolResults]],
    *,
    order: Order = "strongest",
    awaited: Sequence[str] = (),
    command: str = "",
) -> Comparison:
    """Return one row for each guard or pool.

    Args:
        found: Results with the names of their files, at least one.
        order: Rows as they come, or those first that are fooled least; see `_weakness`.
        awaited: Names of defences that have not been attacked yet.
        command: What to run to repeat it, for the record.

    Raises:
        UsageError: There are no results, they are of different images, or of a file of schema 1.
    """
    _check_comparable(found)
    rows = [_open(parts) for parts in _grouped(results for _, results in found)]
    names = row_names([[one.model for one in row.joined] for row in rows])
    defences = [_defence(row, name, rows) for row, name in zip(rows, names, strict=True)]
    if order == "strongest":
        defences.sort(key=lambda one: _weakness(one, defences))
    data = rows[0].joined[0].data
    return Comparison(
        command=command,
        images=Images(
            name=data.name,
            split=data.split,
            digest=data.digest,
            seed=data.seed,
            eight_bit=data.eight_bit,
            most=max(one.n for one in defences),
        ),
        defences=tuple(defences),
        awaited=tuple(awaited),
        published=published_for(data.name),
    )


def _check_comparable(found: Sequence[tuple[str, Results | PoolResults]]) -> None:
    parts = [(name, part) for name, one in found for part in _members(one)]
    if not parts:
        raise UsageError("compare: expected at least one results file, got none")
    name, largest = max(parts, key=lambda one: len(one[1].data.sample))
    for other, part in parts:
        for what, look in _SAME:
            if look(part) != look(largest):
                raise UsageError(
                    f"compare: expected results with one {what}, got {look(largest)!s:.16} in {name} and "
                    f"{look(part)!s:.16} in {other}; compare them apart"
                )
        if part.benign.verdicts is None:
            raise UsageError(f"{other}: expected the verdict on every image, got results of schema 1; attack again")
        if not set(part.data.sample) <= set(largest.data.sample):
            raise UsageError(f"compare: expected {other} to be about images of {name}, got others; attack again")


def _members(one: Results | PoolResults) -> tuple[Results, ...]:
    return one.members if isinstance(one, PoolResults) else (one,)


def _grouped(found: Iterable[Results | PoolResults]) -> list[tuple[tuple[Results, ...], ...]]:
    """Return the results of each guard, or of each member of each pool, together."""
    groups: dict[tuple[str, ...], list[tuple[Results, ...]]] = {}
    for one in found:
        members = _members(one)
        groups.setdefault(tuple(part.model.digest for part in members), []).append(members)
    return [tuple(zip(*group, strict=True)) for group in groups.values()]


def _open(parts: tuple[tuple[Results, ...], ...]) -> _Row:
    """Join the results of one guard, or of each member of a pool, and choose the threshold to count with."""
    shared = [_common(member) for member in parts]
    joined = tuple(join(member) for member in parts)
    calibrations = [one.model.calibration for one in joined]
    if all(one is not None and one.get("acceptance") == BENIGN_ACCEPTANCE for one in calibrations):
        return _Row(parts, joined, tuple(Member(one, None) for one in shared), "calibrated")
    chosen = threshold_at(shared[0].benign.scores(shared[0].truth), acceptance=BENIGN_ACCEPTANCE)
    if len(shared) > 1 or chosen is None:
        return _Row(parts, joined, tuple(Member(one, None) for one in shared), "own")
    return _Row(parts, joined, (Member(shared[0], chosen),), "re-chosen")


def _common(parts: Sequence[Results]) -> Shared:
    shared = shared_images(parts)
    if shared is None:
        raise UsageError(f"compare: expected files of {parts[0].model.file} with common images, got none; attack again")
    return shared._replace(cells=tuple(sorted(shared.cells, key=key_of)))


def _defence(row: _Row, name: str, rows: Sequence[_Row]) -> Defence:
    benign = untouched(row.members)
    findings = [conclude(one) for one in row.joined]
    worst = max(findings, key=lambda one: _SEVERITY.index(one.kind))
    changes = [one for part in row.joined for one in part.availability if one.change != UNCHANGED]
    lost = min(changes, key=lambda one: one.accepted.value, default=None)
    return Defence(
        name=name,
        files=tuple(_file(one, parts) for one, parts in zip(row.joined, row.parts, strict=True)),
        complete=all(one.complete for one in row.joined),
        n=len(row.members[0].shared.truth),
        threshold=row.threshold,
        clean=benign.right_label,
        accepted=benign.accepted,
        benign_fooled=benign.fooled,
        at=tuple(_at(row, budget, rows) for budget in _budgets(row)),
        lost_to=None if lost is None else lost.change,
        available=None if lost is None else lost.accepted,
        verdict=worst.kind,
        sentence=worst.sentence,
        tried=_tried(row),
        doubt=next((check.figures for check in map(unbounded, row.joined) if check.verdict == "failed"), None),
    )


def _file(joined: Results, parts: Sequence[Results]) -> File:
    names = {field.name for field in dataclasses.fields(File)} - {"commands"}
    return File(commands=tuple(part.command for part in parts), **{name: getattr(joined.model, name) for name in names})


def _budgets(row: _Row) -> list[Budget]:
    found = {budget for budget in map(budget_of, row.cells) if budget is not None}
    return sorted(found, key=lambda one: (one.norm != "linf", one.epsilon))


def _at(row: _Row, budget: Budget, rows: Sequence[_Row]) -> AtBudget:
    known = _kinds(row, budget)
    models = [one.model for one in row.joined]
    every = dict.fromkeys(kind for other in rows for kind in _kinds(other, budget))
    restarts = [
        cell.parameters["restarts"]
        for cell in row.cells
        if cell.adaptive and budget_of(cell) == budget and isinstance(cell.parameters.get("restarts"), int)
    ]
    found = pointwise(row.members, budget)
    return AtBudget(
        norm=budget.norm,
        epsilon=budget.epsilon,
        restarts=max(restarts, default=None),
        attacks=known,
        missing=tuple(kind for kind in every if kind not in known and applies(kind, models)),
        **vars(found),
    )


def _kinds(row: _Row, budget: Budget) -> tuple[str, ...]:
    """Return the kinds of attacks with a budget or without one, those that know the rule first."""
    cells = sorted(row.cells, key=lambda cell: (not cell.adaptive, -cell.strength, cell.attack))
    return tuple(dict.fromkeys(kind_of(cell) for cell in cells if budget_of(cell) in (budget, None)))


def _tried(row: _Row) -> tuple[Tried, ...]:
    found = []
    for cells in zip(*(member.shared.cells for member in row.members), strict=True):
        truth = row.members[0].shared.truth
        shares = [cell.verdicts.outcomes(truth).fooled.mean() for cell in cells if cell.verdicts is not None]
        first = cells[0]
        tried = Tried(
            name=cell_name(first),
            kind=kind_of(first),
            source=first.source.file,
            adaptive=first.adaptive,
            fooled=float(sum(shares) / len(shares)),
            n=len(truth),
        )
        found.append(((not first.adaptive, -first.strength, -tried.fooled, tried.name, tried.source), tried))
    return tuple(tried for _, tried in sorted(found, key=lambda one: one[0]))


def _weakness(defence: Defence, every: Sequence[Defence]) -> tuple[bool, float, float, str]:
    """Return what rows are ordered by: how often it is fooled, on average over the budgets that all rows have.

    Where there is no such budget it is the average over its own; a row without any comes last. One that rejects most
    benign images comes behind all that answer: it is no achievement not to be fooled by what is never accepted. So does
    one on which an attack without a budget fails: its figures say how weak the attacks were.
    """
    tried = [one for one in every if one.at]
    common = [one for one in defence.at if all(other.within(one.norm, one.epsilon) for other in tried)]
    counted, silent = common or defence.at, 1 - defence.accepted.value > REJECTS_MOST
    if not counted:
        return True, 2.0, 2.0, defence.name
    mean = sum(one.fooled.value for one in counted) / len(counted)
    return (
        silent or defence.doubt is not None,
        mean,
        sum(one.wrong_or_rejected.value for one in counted) / len(counted),
        defence.name,
    )
