"""Conditions that fail a build: ``fooled>0.05``, ``rerr >= 0.1 @ nearly-white-box``, ``availability<0.9``.

    condition = figure operator number [ "@" filter ]
    figure    = one of FIGURES
    operator  = ">" | ">=" | "<" | "<="
    number    = a decimal number or a fraction such as 8/255, at least 0
    filter    = a threat, a reading, an attack, or for availability a change; upper and lower case are the same

A condition fails the build when it holds for any row that the filter leaves. A figure that is undefined fails it too,
and so does a filter that leaves no row: what was not measured has not passed. Without a filter ``fooled`` has an upper
limit for all attacks together within each budget as well, and for the attacks of sanity checks that the verdict counts.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from calibration.attacks.catalogue import ATTACKS
from calibration.availability import CHANGES, UNCHANGED
from calibration.findings import COUNTED_PROBES
from calibration.metrics import Interval
from calibration.results import Results
from calibration.results.phrasing import cell_name
from calibration.results.records import Cell
from calibration.threats import NAMES, THREATS
from runtime.errors import GateFailed, UsageError

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_IDLE = ((">", 1), ("<", 0))
"""Operators with limits that no share is beyond."""
_CONDITION = re.compile(r"\s*([a-z]+)\s*(>=|<=|>|<)\s*([0-9.eE+/-]+)\s*(?:@(.*))?", re.DOTALL)
_LONGEST = 200


class _Figure(NamedTuple):
    meaning: str
    of: Callable[[Cell], Interval | None]


_OF_CELLS: Mapping[str, _Figure] = {
    "fooled": _Figure("accepted and wrong, of all attacked images", lambda cell: cell.rates.fooled),
    "rejected": _Figure("rejected, of all attacked images", lambda cell: cell.rates.rejected),
    "error": _Figure("wrong among the accepted ones", lambda cell: cell.rates.error_when_accepted),
    "accuracy": _Figure("accepted and right, of all attacked images", lambda cell: cell.rates.correct),
    "rerr": _Figure(
        "RErr at 99 % benign acceptance",
        lambda cell: None if cell.detection is None else cell.detection.robust_error_at_99,
    ),
    "auroc": _Figure(
        "area under the ROC of the confidence", lambda cell: None if cell.detection is None else cell.detection.auroc
    ),
}

FIGURES: Mapping[str, str] = {
    **{name: figure.meaning for name, figure in _OF_CELLS.items()},
    "availability": "accepted, of benign images after each harmless change",
}
"""What can be asked for, and what it is."""


class Row(NamedTuple):
    """One figure of one row: what it is called, by what filters it is found, and its value; None where undefined."""

    name: str
    known_as: tuple[str, ...]
    value: float | None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One condition.

    Attributes:
        figure: One of `FIGURES`.
        operator: ``>``, ``>=``, ``<`` or ``<=``.
        limit: What the figure is compared with.
        only: Which rows it is about, lower case; empty for all.

    Raises:
        UsageError: One of them is something else.
    """

    figure: str
    operator: str
    limit: float
    only: str = ""

    def __post_init__(self) -> None:
        """Check the words and the limit."""
        if self.figure not in FIGURES or self.operator not in _OPERATORS or not 0 <= self.limit < math.inf:
            raise UsageError(f"--fail-if: expected {_example()}, got {str(self)!a:.{_LONGEST}}")
        if (self.operator, self.limit) in _IDLE or self.limit > 1:
            raise UsageError(
                f"--fail-if: expected a limit that a share between 0 and 1 can be beyond, got {str(self)!a:.{_LONGEST}}"
            )
        known = _filters(self.figure)
        if self.only and self.only not in known:
            raise UsageError(f"--fail-if: expected one of {', '.join(known)} behind @, got {self.only!a:.{_LONGEST}}")

    def __str__(self) -> str:
        """Return the condition as it is written."""
        return f"{self.figure}{self.operator}{self.limit}" + (f"@{self.only}" if self.only else "")

    def broken_by(self, row: Row) -> bool:
        """Return whether a row fails the build: the condition holds, or the figure is undefined."""
        return row.value is None or _OPERATORS[self.operator](row.value, self.limit)


def parse_gate(text: str) -> Gate:
    """Read one condition.

    Raises:
        UsageError: It does not follow the grammar above.
    """
    found = _CONDITION.fullmatch(text[: _LONGEST + 1])
    limit = math.nan if found is None else _number(found[3])
    if found is None or math.isnan(limit) or (found[4] is not None and not found[4].strip()):
        raise UsageError(f"--fail-if: expected {_example()}, got {text!a:.{_LONGEST}}")
    return Gate(figure=found[1], operator=found[2], limit=limit, only=(found[4] or "").strip().lower())


def check_gates(gates: Iterable[Gate], results: Results, *, member: str = "") -> None:
    """Check results against every condition.

    Args:
        gates: The conditions.
        results: The results.
        member: Of which member of a pool they are, to be named.

    Raises:
        GateFailed: One fails; the message names the row that fails it most clearly.
    """
    for gate in gates:
        rows = [row for row in _rows(gate.figure, results) if gate.only in ("", *row.known_as)]
        if gate.figure == "fooled" and gate.operator in (">", ">=") and not gate.only:
            rows += _beyond_cells(results)
        if not rows:
            raise GateFailed(
                f"--fail-if {gate}: no row was measured that it is about; what was not measured has not passed"
            )
        sign = -1 if gate.operator in (">", ">=") else 1
        broken = sorted(
            filter(gate.broken_by, rows), key=lambda row: -math.inf if row.value is None else sign * row.value
        )
        if broken:
            row = broken[0]
            value = "undefined" if row.value is None else f"{row.value:.4f}"
            more = f"; so do {len(broken) - 1} more" if len(broken) > 1 else ""
            raise GateFailed(f"--fail-if {gate}: {member and f'{member}, '}{row.name} has {gate.figure} {value}{more}")


def _rows(figure: str, results: Results) -> Iterator[Row]:
    if figure == "availability":
        for one in results.availability:
            if one.change != UNCHANGED:
                yield Row(f"benign images after “{one.change}”", (one.change.lower(),), one.accepted.value)
        return
    for cell in results.cells:
        value = _OF_CELLS[figure].of(cell)
        names = (cell.threat, cell.reading, cell.attack)
        yield Row(cell_name(cell), tuple(name.lower() for name in names), None if value is None else value.value)


def _beyond_cells(results: Results) -> Iterator[Row]:
    """Yield what the verdict counts beside the attacks that were asked for."""
    for row in results.worst_cases:
        if row.epsilon is not None and not row.adaptive:
            yield Row(f"all attacks together within ε = {row.epsilon:.4g} ({row.norm})", (), row.fooled.value)
    for probe in results.probes:
        if probe.purpose in COUNTED_PROBES:
            yield Row(f"{cell_name(probe.cell)} of a sanity check", (), probe.cell.rates.fooled.value)


def _filters(figure: str) -> tuple[str, ...]:
    """Return what may stand behind ``@``."""
    if figure == "availability":
        return tuple(name.lower() for name in CHANGES if name != UNCHANGED)
    names = (*NAMES, *(threat.reading for threat in THREATS), *ATTACKS)
    return tuple(dict.fromkeys(name.lower() for name in names))


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    try:
        number = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return math.nan
    return number if 0 <= number < math.inf else math.nan


def _example() -> str:
    return f"a condition such as fooled>0.05 or fooled>=0.01@pgd of {', '.join(FIGURES)}"
