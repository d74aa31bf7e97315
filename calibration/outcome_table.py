"""What `cmt attack` says at its end: a verdict, then one row for the benign images and one for each attack."""

from __future__ import annotations

import unicodedata

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibration.findings import conclude, warnings
from calibration.metrics import Counts, Interval, Rates
from calibration.phrasing import attack_with_strength, bounds, percent, threat_name
from calibration.results import Results
from runtime.terminal import printable

HEADINGS = ("attacker", "attack", "fooled", "rejected", "correct", "right label", "wrong if accepted")

_COLOURS = {"fooled": "red", "rejected": "yellow", "correct": "green"}


def print_outcomes(results: Results) -> None:
    """Print verdict and table on standard output, and every reason for doubt on standard error."""
    finding = conclude(results)
    click.echo(_plain(finding.sentence))
    click.echo(_plain(finding.scope))
    console = Console()
    if console.is_terminal:
        console.print(
            _ruled(outcome_rows(results), f"{results.benign.counts.n} images; below each share its 95 % interval")
        )
    else:
        _print_aligned(outcome_rows(results))
        click.echo(f"{results.benign.counts.n} images; in brackets 95 % intervals")
    for warning in warnings(results):
        click.echo(f"warning: {_plain(warning)}", err=True)


def outcome_rows(results: Results) -> list[tuple[str, ...]]:
    """Return the rows under `HEADINGS`: benign images, then the cells in their order; shares with 95 % intervals."""
    rows = [("nobody", "none", *_shares(results.benign.counts, results.benign.rates))]
    for cell in results.cells:
        attacker, attack = threat_name(cell.threat, cell.reading), attack_with_strength(cell)
        rows.append((_plain(attacker), _plain(attack), *_shares(cell.counts, cell.rates)))
    return rows


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


def _share(interval: Interval) -> str:
    return _plain(f"{percent(interval.value)} ({bounds(interval)})")


def _ruled(rows: list[tuple[str, ...]], legend: str) -> Table:
    """Return the rows as a table that fits 80 columns: two lines each, the interval below its share."""
    table = Table(box=box.SIMPLE, caption=legend, caption_justify="left", padding=(0, 1, 1, 0))
    table.add_column("attacker, attack", no_wrap=True)
    for heading in HEADINGS[2:]:
        table.add_column(heading, style=_COLOURS.get(heading))
    for attacker, attack, *shares, error in rows:
        stacked = (share.replace(" (", "\n").removesuffix(" %)") for share in shares)
        texts = (f"{attacker}\n{attack}", *stacked, error.replace(" of ", "\nof "))
        table.add_row(*map(escape, texts))
    return table


def _print_aligned(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    for row in (HEADINGS, *rows):
        click.echo("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def _plain(text: str) -> str:
    """Return text with ordinary spaces and without the marks that only guide how a page breaks its lines."""
    return printable("".join(" " if sign.isspace() else sign for sign in text if unicodedata.category(sign) != "Cf"))
