"""What is printed of a pool: one line a budget, the expectation over who answers, and what no draw can help."""

from __future__ import annotations

import click

from calibration.comparing import compare
from calibration.results import PoolResults
from calibration.results.phrasing import percent, radius, with_bounds
from runtime.terminal import printable


def print_pool(results: PoolResults) -> None:
    """Print the worst cases of a pool, at the thresholds of its members."""
    (row,) = compare([("these results", results)]).defences
    click.echo(printable(f"{row.name}: {row.n} images"))
    for one in row.at:
        every, worst = (percent(share.value) for share in (one.by_every, one.by_worst) if share is not None)
        click.echo(
            f"{radius(one.norm, one.epsilon)}: fooled {with_bounds(one.fooled)}, "
            f"every member {every}, the worst member {worst}"
        )
    if not row.at:
        click.echo("no attack had a budget; see `cmt compare`")
