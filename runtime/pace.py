"""Progress of scoring for people: how far, how fast, how long still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

_PLAIN_SECONDS = 20.0

Report = Callable[[int, int | None], None]


@contextmanager
def pace() -> Iterator[Report]:
    """Show images done, rate and time left: a bar on a terminal, a line now and then elsewhere; on standard error."""
    clock = _Clock()
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(clock)
        return
    columns = (SpinnerColumn(), TextColumn("scoring"), BarColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("scoring", total=None, pace="")
        yield lambda done, total: bar.update(task, completed=done, total=total, pace=clock.describe(done, total))


class _Clock:
    """Measures from the first report on: what an earlier run did is no work of this one."""

    def __init__(self) -> None:
        self._started, self._first = 0.0, -1

    def describe(self, done: int, total: int | None) -> str:
        now = time.monotonic()
        if self._first < 0:
            self._started, self._first = now, done
        rate = (done - self._first) / max(now - self._started, 1e-9)
        text = f"{done:,}" + (f" of {total:,}" if total is not None else "")
        if done > self._first:
            text += f" images, {rate:,.0f}/s"
            if total is not None:
                text += f", {_duration((total - done) / rate)} left"
        return text


def _plain(clock: _Clock) -> Report:
    click.echo("scoring", err=True)
    last = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal last
        text = clock.describe(done, total)
        if time.monotonic() - last >= _PLAIN_SECONDS:
            last = time.monotonic()
            click.echo(f"scoring: {text}", err=True)

    return report


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
