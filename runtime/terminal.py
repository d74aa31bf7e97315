"""What commands show: results on standard output, progress on standard error, as a person or a machine reads it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_PLAIN_SECONDS = 20.0

Report = Callable[[int, int], None]
"""Told of ``(done, total)``."""


@contextlib.contextmanager
def progress(what: str) -> Iterator[Report]:
    """Show how far one piece of work has come: a bar on a terminal, a line now and then elsewhere."""
    with stages() as stage:
        yield stage(what)


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str], Report]]:
    """Show pieces of work one after the other; each call announces one and returns what to tell of its progress."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_stage
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:

        def stage(what: str) -> Report:
            for task in bar.task_ids:
                bar.remove_task(task)
            current = bar.add_task(printable(what), total=None)
            return lambda done, total: bar.update(current, completed=done, total=total)

        yield stage


def _plain_stage(what: str) -> Report:
    started = last = time.monotonic()
    click.echo(printable(what), err=True)

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_SECONDS:
            last = now
            click.echo(f"{printable(what)}: {done} of {total}, {now - started:.0f} s", err=True)

    return report


def print_json(facts: Any) -> None:
    """Print one JSON document for machines."""
    click.echo(json.dumps(facts, ensure_ascii=True, indent=1))


def print_table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values: set as a table on a terminal, as plain lines elsewhere."""
    lines = [(printable(name), printable(value)) for name, value in rows]
    console = Console()
    if console.is_terminal:
        table = Table(title=Text(printable(title)), title_justify="left", show_header=False, box=box.SIMPLE)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in lines:
            table.add_row(Text(name), Text(value))
        console.print(table)
        return
    width = max((len(name) for name, _ in lines), default=0)
    click.echo(printable(title))
    for name, value in lines:
        click.echo(f"  {name:<{width}}  {value}")


def printable(value: Any) -> str:
    """Return text that cannot steer a terminal, whoever chose it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
