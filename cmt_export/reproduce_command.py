"""`cmt reproduce`: the paper's tables and figures with one command. Options become frozen configuration here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from calibration import options as parse
from calibration.datasets import Dataset, load_dataset
from cmt_export.options import Command
from cmt_export.reproduction.config import ReproductionConfig
from cmt_export.reproduction.measuring import measure
from cmt_export.reproduction.preset import PRESETS
from cmt_export.reproduction.run import Done, Reproduction, reproduce
from cmt_export.reproduction.sections import SECTIONS, in_order
from runtime.atomic import make_folder
from runtime.cli import DEVICE, JSON
from runtime.errors import UsageError
from runtime.terminal import print_json, print_table, printable, stages

_FILE = click.Path(path_type=Path)
_DEFAULTS = ReproductionConfig()
_WORTH_TELLING = 10.0
"""Seconds; what took less is announced when it begins, and that is all."""


def _count(flag: str, text: str) -> Callable[[Command], Command]:
    """Return an option for a whole number of `ReproductionConfig`."""
    name = flag.removeprefix("--").replace("-", "_")
    return click.option(flag, type=int, default=getattr(_DEFAULTS, name), show_default=True, help=text)


@click.command(cls=parse.Recorded)
@click.argument("name", metavar="|".join(PRESETS))
@click.option("--data", metavar="DATA", help="A folder with train/ and test/, or an .npz; digits needs none.")
@click.option("-o", "--output", type=_FILE, metavar="DIR", help="Where the outcome goes.  [default: results/NAME]")
@click.option("--work", type=_FILE, metavar="DIR", help="Where finished work is kept.  [default: OUTPUT/.work]")
@click.option(
    "--only",
    multiple=True,
    metavar="NAME,...",
    default=tuple(SECTIONS),
    callback=parse.names(*SECTIONS),
    help=f"What to make: {', '.join(SECTIONS)}.  [default: all]",
)
@click.option("-n", type=int, default=_DEFAULTS.n, show_default=True, help="Test images for slow attacks.")
@_count("--generated", "Test images of Table 5.")
@_count("--evaluated", "Test images of report.html.")
@click.option("--epochs", type=int, help="Of every network.  [default: as the set has it]")
@_count("--igs-steps", "Steps of IGS.")
@_count("--cw-steps", "Steps of a round of C&W.")
@_count("--cw-rounds", "Rounds of C&W.")
@_count("--cw-search", "Steps after which C&W gives an image up.")
@_count("--pgd-steps", "Steps of PGD.")
@_count("--pgd-restarts", "Starts of PGD.")
@_count("--seed", "Of weights, samples and random targets.")
@click.option("--plan", is_flag=True, help="List the work with an estimate of its time, and do none.")
@DEVICE
@click.option("--threads", type=int, metavar="N", help="Of training and attacks; by default all usable processors.")
@JSON
@click.pass_context
def reproduce_paper(ctx: click.Context, /, name: str, output: Path | None, work: Path | None, **options: Any) -> None:
    """Make every table and figure of the paper from a data set, beside what it published.

    Work is kept in units: a stopped run goes on, one changed option repeats only what it touches, several runs may
    share --work, and the outcome is written again after each unit, so that it is whole and honest at any time.

    Example: cmt reproduce digits -o cmt-digits

    Example: cmt reproduce mnist --data mnist/ -o results/mnist

    Example: cmt reproduce cifar10 --data cifar10/ --only table3,figure4 --plan
    """
    if name not in PRESETS:
        raise UsageError(f"reproduce: expected one of {', '.join(PRESETS)}, got {name!a}")
    output = output or Path("results") / name
    reproduction = Reproduction(
        preset=PRESETS[name],
        config=ReproductionConfig(**{each.name: options[each.name] for each in fields(ReproductionConfig)}),
        output=output,
        work=work or output / ".work",
        only=options["only"],
        device=options["device"],
        threads=options["threads"],
        command=parse.command_line(ctx),
    )
    data = _load(name, options["data"])
    reproduction.preset.require(data)
    make_folder(output, option="-o")
    if options["plan"]:
        _show_plan(reproduction, data, as_json=options["as_json"])
        return
    with stages() as stage:
        done = [_told(one) for one in reproduce(reproduction, data, stage)]
    _show(done, output, as_json=options["as_json"])


def _load(name: str, source: str | None) -> Dataset:
    if source is None:
        if name != "digits":
            raise UsageError(f"--data: expected the folder of {name}, got none; name one with train/ and test/")
        source = "digits"
    return load_dataset(source)


def _told(done: Done) -> Done:
    if not done.reused and (done.note or done.seconds >= _WORTH_TELLING):
        click.echo(
            printable(f"done in {done.seconds:.1f} s: {done.title}{f' ({done.note})' if done.note else ''}"), err=True
        )
    return done


def _show_plan(reproduction: Reproduction, data: Dataset, *, as_json: bool) -> None:
    found = reproduction.open(data)
    pace = measure(found.lineup, data, device=reproduction.device, threads=reproduction.threads)
    rows: list[dict[str, Any]] = [
        {
            "title": unit.title,
            "key": found.store.key(unit),
            "done": done,
            "hours": 0.0 if done else unit.seconds(pace) / 3600,
        }
        for unit in in_order(reproduction.only, found.sets)
        for done in [found.store.find(unit) is not None]
    ]
    hours = sum(row["hours"] for row in rows)
    if as_json:
        print_json({"units": rows, "hours": hours, "pace": vars(pace)})
        return
    total = f"{len(rows)} units, about {hours:.1f} hours to do"
    print_table(total, [(_minutes(row), row["title"]) for row in rows])


def _minutes(row: dict[str, Any]) -> str:
    return "done" if row["done"] else f"{60 * row['hours']:.1f} min"


def _show(done: list[Done], output: Path, *, as_json: bool) -> None:
    summary = (output / "summary.md").read_text(encoding="utf-8")
    if as_json:
        print_json({"output": str(output), "finding": summary.partition("\n")[0], "units": [vars(one) for one in done]})
        return
    click.echo(summary.partition("\n")[0].replace("**", ""))
    reused = sum(one.reused for one in done)
    click.echo(f"{len(done)} units: {len(done) - reused} done now, {reused} taken over; see {output / 'summary.md'}")
