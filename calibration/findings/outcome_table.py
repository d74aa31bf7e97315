"""What `cmt attack` says at its end: a verdict, its cost, then tables: the worst case first, then each attack."""

from __future__ import annotations

import unicodedata

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibration.findings.conclusion import conclude
from calibration.findings.doubts import warnings
from calibration.metrics import Counts, Interval, Rates
from calibration.results import Results
from calibration.results.phrasing import attack_with_strength, bounds, complement, percent, radius, threat_name
from runtime.terminal import printable

HEADINGS = ("attacker", "attack", "fooled", "rejected", "correct", "right label", "wrong if accepted")
"""Of the first table; a worst case has no other columns than fooled and correct."""
DETECTION_HEADINGS = ("attacker", "attack", "fooled at 99 %", "RErr at 99 %", "AUROC", "TPR at 1 %", "TPR at 5 %")
"""Of the second one: at the threshold that accepts 99 % of the benign images, and whatever the threshold."""

_COLOURS = {"fooled": "red", "rejected": "yellow", "correct": "green"}
_NONE = "-"
_AT_99 = (
    "at 99 %: at the threshold that 99 % of the correctly classified benign images pass. The attacks aimed at the "
    "threshold of the file, so these are too good: calibrate and attack again"
)


def print_outcomes(results: Results) -> None:
    """Print verdict and tables on standard output, and every reason for doubt on standard error."""
    finding = conclude(results)
    for line in (finding.sentence, finding.scope, finding.cost):
        click.echo(_plain(line))
    for one in finding.failed:
        click.echo(_plain(f"Failed sanity check: expected that {one.name}, got {one.figures}."))
    not_run = [one.name for one in finding.sanity if one.verdict == "not run"]
    if results.cells and not_run:
        hint = f": {', '.join(not_run)}" if results.probes else "; --sanity runs most of them"
        click.echo(f"{len(not_run)} of {len(finding.sanity)} sanity checks were not run{hint}.")
    n = results.benign.counts.n
    _print_table(HEADINGS, outcome_rows(results), f"{n} images")
    if results.worst_cases:
        _print_table(DETECTION_HEADINGS, detection_rows(results), _AT_99)
    for warning in warnings(results):
        click.echo(f"warning: {_plain(warning)}", err=True)


def outcome_rows(results: Results) -> list[tuple[str, ...]]:
    """Return the rows under `HEADINGS`: worst cases, benign images, then the cells in their order.

    Every share carries its 95 % interval.
    """
    rows: list[tuple[str, ...]] = [
        (*name, _share(row.fooled), _NONE, _share(complement(row.wrong_or_rejected)), _NONE, _NONE)
        for name, row in zip(_worst_names(results), results.worst_cases, strict=True)
    ]
    rows.append(("nobody", "none", *_shares(results.benign.counts, results.benign.rates)))
    for cell in results.cells:
        attacker, attack = threat_name(cell.threat, cell.reading), attack_with_strength(cell)
        rows.append((_plain(attacker), _plain(attack), *_shares(cell.counts, cell.rates)))
    return rows


def detection_rows(results: Results) -> list[tuple[str, ...]]:
    """Return the rows under `DETECTION_HEADINGS`: worst cases, then the cells in their order."""
    rows: list[tuple[str, ...]] = [
        (*name, _optional(row.fooled_at_99), _NONE, _NONE, _NONE, _NONE)
        for name, row in zip(_worst_names(results), results.worst_cases, strict=True)
    ]
    for cell in results.cells:
        found = cell.detection
        if found is not None:
            figures = (
                found.fooled_at_99,
                found.robust_error_at_99,
                found.auroc,
                found.tpr_at_1_fpr,
                found.tpr_at_5_fpr,
            )
            attacker, attack = threat_name(cell.threat, cell.reading), attack_with_strength(cell)
            rows.append((_plain(attacker), _plain(attack), *map(_optional, figures)))
    return rows


def _worst_names(results: Results) -> list[tuple[str, str]]:
    return [
        ("knowing the rule" if row.adaptive else "anybody", _plain(f"all together, {radius(row.norm, row.epsilon)}"))
        for row in results.worst_cases
    ]


def _shares(counts: Counts, rates: Rates) -> tuple[str, ...]:
    error = rates.error_when_accepted
    coverage = f"of {counts.accepted}"
    return (
        _share(rates.fooled),
        _share(rates.rejected),
        _share(rates.correct),
        _share(rates.right_label),
        f"undefined {coverage}" if error is None else f"{_plain(percent(error.value))} {coverage}",
    )


def _optional(interval: Interval | None) -> str:
    return "undefined" if interval is None else _share(interval)


def _share(interval: Interval) -> str:
    return _plain(f"{percent(interval.value)} ({bounds(interval)})")


def _print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]], legend: str) -> None:
    console = Console()
    if console.is_terminal:
        console.print(_ruled(headings, rows, f"{legend}; below each share its 95 % interval"))
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        click.echo("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"{legend}; in brackets 95 % intervals")


def _ruled(headings: tuple[str, ...], rows: list[tuple[str, ...]], legend: str) -> Table:
    """Return the rows as a table that fits 80 columns: two lines each, the interval below its share."""
    table = Table(box=box.SIMPLE, caption=legend, caption_justify="left", padding=(0, 1, 1, 0))
    table.add_column("attacker, attack", no_wrap=True)
    for heading in headings[2:]:
        table.add_column(heading, style=_COLOURS.get(heading))
    for attacker, attack, *shares in rows:
        stacked = (share.replace(" (", "\n").removesuffix(" %)").replace(" of ", "\nof ") for share in shares)
        table.add_row(*map(escape, (f"{attacker}\n{attack}", *stacked)))
    return table


def _plain(text: str) -> str:
    """Return text with ordinary spaces and without the marks that only guide how a page breaks its lines."""
    return printable("".join(" " if sign.isspace() else sign for sign in text if unicodedata.category(sign) != "Cf"))
