"""The command that sets every defence beside every other."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from calibration import comparing
from calibration import options as parse
from calibration.results import load_results
from runtime.atomic import check_output, make_folder
from runtime.cli import JSON
from runtime.terminal import print_json

_FILE = click.Path(path_type=Path)


@click.command(cls=parse.Recorded)
@click.argument("results", type=_FILE, nargs=-1, required=True, metavar="RESULTS.json...")
@click.option(
    "-o", "--output", type=_FILE, default="defences", show_default=True, help="The folder for what is written."
)
@click.option(
    "--order",
    type=click.Choice(comparing.ORDERS),
    default="strongest",
    show_default=True,
    help="Which row comes first.",
)
@click.option("--awaited", multiple=True, metavar="NAME", help="A defence not attacked yet, to be named so.")
@JSON
@click.pass_context
def compare(ctx: click.Context, /, **options: Any) -> None:
    """Set the results of different guards on one data set beside each other.

    Results of one guard are joined first. Writes defences.md, defences.json, defences.svg and defences.html.

    Example: cmt compare hardened.json cmt.json pgd.json -o results/defences

    Example: cmt compare results/defences/*/*.json -o results/defences --awaited trades
    """
    from calibration.comparing.pages import (
        STEM,
        SUFFIXES,
        caution,
        headline,
        write_comparison,
    )  # jinja2 and matplotlib: slow to import

    paths: tuple[Path, ...] = options["results"]
    folder: Path = options["output"]
    found = [(str(path), load_results(path)) for path in paths]
    comparison = comparing.compare(
        found, order=options["order"], awaited=options["awaited"], command=parse.command_line(ctx)
    )
    make_folder(folder, option="-o")
    for suffix in SUFFIXES:
        check_output(folder / f"{STEM}{suffix}", *paths)
    files = write_comparison(comparison, folder)
    if options["as_json"]:
        print_json(asdict(comparison))
        return
    for file in files:
        click.echo(f"wrote {file}")
    click.echo(" ".join(filter(None, [headline(comparison), caution(comparison)])))
