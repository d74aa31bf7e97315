"""The commands that measure an exported file: attack, calibrate, report. Options become frozen configuration here."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from calibration import options as parse
from calibration.attacks import Attack, Igs, Pgd
from calibration.crafting import ATTACKS
from calibration.datasets import load_dataset
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.outcome_table import print_outcomes
from calibration.results import Results
from calibration.threats import DEFAULT_NAMES, NAMES
from calibration.thresholds import CalibrationConfig
from calibration.thresholds import calibrate as calibrate_file
from runtime.atomic import atomic_output, check_output
from runtime.cli import DEVICE, JSON, MODEL, THREADS
from runtime.terminal import print_json, print_table, printable, progress, stages

_FILE = click.Path(path_type=Path)

_DATA = click.option(
    "--data", required=True, metavar="DATA", help="digits, a folder with train/ and test/, or an .npz."
)
_SIZE = click.option("--size", metavar="HxW", callback=parse.size, help="Fit every image file to this size.")
_SEED = click.option("--seed", type=int, default=0, show_default=True, help="What the sample is drawn with.")


class _Recorded(click.Command):
    """A command that remembers its arguments as they were typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments for `_command_line`."""
        ctx.meta[__name__] = tuple(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Recorded)
@MODEL
@_DATA
@click.option(
    "-a",
    "--attacks",
    multiple=True,
    default=tuple(ATTACKS),
    show_default=True,
    metavar="NAME,...",
    callback=parse.names(*ATTACKS),
    help="What to run.",
)
@click.option(
    "--threat",
    "threats",
    multiple=True,
    default=DEFAULT_NAMES,
    show_default=True,
    metavar="NAME,...",
    callback=parse.names(*NAMES),
    help=f"What the attacker has: {' or '.join(NAMES)}.",
)
@click.option("--twin", type=_FILE, metavar="FILE.onnx", help="Undefended network, for the grey-box reading oracle.")
@click.option("--unlocked", type=_FILE, metavar="FILE.onnx", help="Defended without the lock, for the reading z.")
@click.option("--substitute", type=_FILE, metavar="FILE.onnx", help="The attacker's own network, for black-box.")
@click.option(
    "--epsilon",
    "epsilons",
    default="0.1,0.3",
    show_default=True,
    metavar="NUMBER,...",
    callback=parse.epsilons,
    help="Largest change of a pixel in [0, 1].",
)
@click.option(
    "--steps",
    type=int,
    show_default=f"{Igs.steps} for igs, {Pgd.steps} for pgd",
    help="Steps of iterative attacks.",
)
@click.option("--restarts", type=int, default=Pgd.restarts, show_default=True, help="Starts of pgd.")
@click.option("-n", type=int, default=1000, show_default=True, help="Size of the sample of test images.")
@_SEED
@click.option("--eight-bit", is_flag=True, help="Round attacked images to 8 bits, as a PNG would, before judging them.")
@_SIZE
@click.option("-o", "--output", type=_FILE, default="results.json", show_default=True, help="Where the results go.")
@DEVICE
@THREADS
@JSON
@click.pass_context
def attack(ctx: click.Context, /, **options: Any) -> None:
    """Attack GUARD.onnx on test images of DATA and count what it lets through.

    An attack succeeds on an image when the guard accepts a wrong label. The results are written after every attack;
    Ctrl-C keeps the finished ones, marked as incomplete.

    Example: cmt attack guard.onnx --data mnist/ --twin model.oracle.onnx -o results.json

    Example: cmt attack guard.onnx --data mnist/ -a igs --epsilon 8/255,0.3 --threat black-box --substitute s.onnx
    """
    config = EvaluationConfig(
        attacks=_attack_configs(
            options["attacks"], epsilons=options["epsilons"], steps=options["steps"], restarts=options["restarts"]
        ),
        command=_command_line(ctx),
        **{
            name: options[name]
            for name in ("threats", "twin", "unlocked", "substitute", "n", "seed", "eight_bit", "device", "threads")
        },
    )
    output: Path = options["output"]
    check_output(output, options["model"], *config.files.values())
    dataset = load_dataset(options["data"], size=options["size"])
    with stages() as stage, _keeping(output) as keep:
        results = evaluate(config, options["model"], dataset, progress=stage, on_cell=keep)
    results.save(output)
    if options["as_json"]:
        print_json(_without_pictures(results))
        return
    print_outcomes(results)
    click.echo(_next("report", output, "-o", output.with_suffix(".html")))


@click.command()
@MODEL
@_DATA
@click.option(
    "--accept", "acceptance", type=float, required=True, metavar="SHARE", help="Of correctly classified images."
)
@click.option("-n", type=int, default=1000, show_default=True, help="Leave this many test images to `cmt attack -n`.")
@_SEED
@_SIZE
@click.option(
    "-o", "--output", type=_FILE, help="Where the file goes; without it GUARD.onnx itself gets the threshold."
)
@DEVICE
@THREADS
@JSON
def calibrate(
    model: Path,
    data: str,
    acceptance: float,
    n: int,
    seed: int,
    size: tuple[int, int] | None,
    output: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Set the threshold of GUARD.onnx so that it accepts the given share of correctly classified images.

    The threshold is the largest that does. It is measured on the test images of DATA that `cmt attack` with the same -n
    and --seed does not touch.

    Example: cmt calibrate guard.onnx --data mnist/ --accept 0.99 -o calibrated.onnx
    """
    config = CalibrationConfig(acceptance=acceptance, n=n, seed=seed)
    target = output or model
    check_output(target)
    dataset = load_dataset(data, size=size)
    with progress("calibrating") as report:
        found = calibrate_file(model, dataset, config, device=device, threads=threads, progress=report)
    with atomic_output(target) as temporary:
        temporary.write_bytes(found.model)
    if as_json:
        facts = {name: value for name, value in vars(found).items() if name != "model"}
        print_json({"file": str(target), "acceptance": acceptance, **facts})
        return
    print_table(
        f"calibrated {model} -> {target}",
        [
            ("threshold", found.threshold),
            ("accepted", f"{found.reached:.4f} of {found.right} correctly classified images, asked for {acceptance}"),
            ("without a threshold", f"{found.reachable:.4f}"),
            ("held-out images", found.images),
            ("their digest", found.data),
        ],
    )
    click.echo(_next("attack", target, "--data", data, "-n", n, "--seed", seed))


@click.command()
@click.argument("results", type=_FILE, metavar="RESULTS.json")
@click.option("-o", "--output", type=_FILE, default="report.html", show_default=True, help="Where the page goes.")
def report(results: Path, output: Path) -> None:
    """Turn the results of `cmt attack` into one HTML page that needs no network.

    Example: cmt report results.json -o report.html
    """
    from calibration.report import write_report  # matplotlib and jinja2, which the other commands do without

    check_output(output, results)
    write_report(Results.load(results), output)
    click.echo(f"wrote {output}")


@contextlib.contextmanager
def _keeping(output: Path) -> Iterator[Callable[[Results], None]]:
    """Write unfinished results as they grow, and say so when the work is interrupted."""
    kept = 0

    def keep(results: Results) -> None:
        nonlocal kept
        results.save(output)
        kept = len(results.cells)

    try:
        yield keep
    except KeyboardInterrupt:
        if kept:
            click.echo(f"kept {kept} finished attacks in {output}, marked as incomplete", err=True)
        raise


def _attack_configs(
    names: tuple[str, ...], *, epsilons: tuple[float, ...], steps: int | None, restarts: int
) -> tuple[Attack[Any], ...]:
    stepped = {} if steps is None else {"steps": steps}
    given: dict[str, dict[str, Any]] = {"igs": stepped, "pgd": {**stepped, "restarts": restarts}}
    return tuple(ATTACKS[name](epsilon=epsilon, **given.get(name, {})) for name in names for epsilon in epsilons)


def _command_line(ctx: click.Context) -> str:
    return shlex.join([*ctx.command_path.split(), *ctx.meta[__name__]])


def _next(*words: object) -> str:
    return printable(f"next: cmt {shlex.join(map(str, words))}")


def _without_pictures(results: Results) -> dict[str, Any]:
    document = results.to_json()
    for cell in document["cells"]:
        del cell["examples"]
    return document
