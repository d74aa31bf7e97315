"""The commands that measure an exported file: attack, calibrate, report. Options become frozen configuration here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from calibration import options as parse
from calibration.adoption import Adoption
from calibration.attacks.catalogue import ATTACKS, EPSILONS, grid, measured_in
from calibration.datasets import load_dataset
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.evaluation.saved_images import ImageFolder
from calibration.evaluation.unfinished import Unfinished
from calibration.findings import conclude
from calibration.findings.outcome_table import print_outcomes
from calibration.gates import Gate, check_gates, parse_gate
from calibration.options import DATA, SEED, SIZE, next_command
from calibration.pools import evaluate_pool
from calibration.pools.outcomes import print_pool
from calibration.results import PoolResults, Results, load_results
from calibration.results.joining import join
from calibration.threats import DEFAULT_NAMES, NAMES
from runtime.atomic import check_output
from runtime.cli import DEVICE, JSON, MODEL, THREADS
from runtime.errors import UsageError
from runtime.terminal import print_json, stages

_FILE = click.Path(path_type=Path)


@click.command(cls=parse.Recorded)
@MODEL
@DATA
@click.option(
    "-a",
    "--attacks",
    multiple=True,
    default=("fgs", "igs", "pgd"),
    show_default=True,
    metavar="NAME,...",
    callback=parse.names(*ATTACKS),
    help=f"What to run: {', '.join(ATTACKS)}.",
)
@click.option(
    "--threat",
    "threats",
    multiple=True,
    default=DEFAULT_NAMES,
    show_default=True,
    metavar="NAME,...",
    callback=parse.names(*NAMES),
    help=f"What the attacker has: {', '.join(NAMES)}.",
)
@click.option("--twin", type=_FILE, metavar="FILE.onnx", help="Undefended network, for the grey-box reading oracle.")
@click.option("--unlocked", type=_FILE, metavar="FILE.onnx", help="Defended without the lock, for the reading z.")
@click.option(
    "--substitute",
    "substitutes",
    type=_FILE,
    multiple=True,
    metavar="FILE.onnx",
    help="The attacker's own network, any classifier, for black-box. May be given again.",
)
@click.option(
    "--pool",
    type=_FILE,
    multiple=True,
    metavar="FILE.onnx",
    help="Another member of a pool: one of them, drawn at random, answers each call. May be given again.",
)
@click.option(
    "--epsilon",
    metavar="NUMBER,...",
    callback=parse.numbers,
    show_default=",".join(map(str, EPSILONS)),
    help="Largest change of a pixel in [0, 1], or of the whole image with --norm l2.",
)
@click.option(
    "--norm", type=click.Choice(["linf", "l2"]), help="How changes are measured.  [default: as the attack is]"
)
@click.option("--steps", type=int, help="Steps of iterative attacks.  [default: as the attack has it]")
@click.option("--restarts", type=int, help="Starts of pgd and apgd.  [default: as the attack has it]")
@click.option("--all-targets", is_flag=True, help="Let apgd try every wrong label as its target.")
@click.option(
    "--widest",
    type=click.FloatRange(1, 1000),
    help="Multiple of ε from which the ball of apgd shrinks; 1 stays inside.  [default: 3 with l2, else 1]",
)
@click.option("--queries", type=int, help="Decisions an image may take.  [default: as the attack has it]")
@click.option(
    "--confidence", metavar="NUMBER,...", callback=parse.numbers, help="κ of cw: by how much to win.  [default: 0]"
)
@click.option("-n", type=int, default=1000, show_default=True, help="Size of the sample of test images.")
@SEED
@click.option("--eight-bit", is_flag=True, help="Round attacked images to 8 bits, as a PNG would, before judging them.")
@SIZE
@click.option("--input", "input_name", metavar="NAME", help="Of any other classifier: its images, float32 in [0, 1].")
@click.option("--logits", metavar="NAME", help="Of any other classifier: its logits.")
@click.option("--mean", metavar="NUMBER,...", callback=parse.numbers, help="What it wants subtracted from its images.")
@click.option("--std", metavar="NUMBER,...", callback=parse.numbers, help="What it wants them divided by.")
@click.option("--sanity", is_flag=True, help="Run the attacks that sanity checks alone need, see docs/evaluation.md.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="End with 6 when it holds, such as fooled>0.05, rerr>=0.1@pgd, availability<0.9. May be given again.",
)
@click.option("--save-images", type=_FILE, metavar="DIR", help="Where attacked images go, fooling or not.")
@click.option(
    "--resume", is_flag=True, help="Go on with an interrupted sweep whose results are at -o, or in <-o>.parts."
)
@click.option("-o", "--output", type=_FILE, default="results.json", show_default=True, help="Where the results go.")
@DEVICE
@THREADS
@JSON
@click.pass_context
def attack(ctx: click.Context, /, **options: Any) -> None:
    """Attack GUARD.onnx on test images of DATA and count what it lets through.

    An attack succeeds on an image when the guard accepts a wrong label. The results are written after every attack;
    what is interrupted, or killed, goes on with --resume, within a long attack too. Any other classifier is attacked
    when --input or --logits names its tensors; all its answers count as accepted.

    Example: cmt attack guard.onnx --data mnist/ --twin model.oracle.onnx -o results.json

    Example: cmt attack guard.onnx --data mnist/ -a pgd,apgd,cw --epsilon 8/255,0.3 -n 200

    Example: cmt attack resnet.onnx --logits output --mean .485,.456,.406 --std .229,.224,.225 --data photos/

    Example: cmt attack guard.onnx --data mnist/ --sanity --fail-if "fooled>0.05@nearly-white-box"

    Example: cmt attack a.onnx --pool b.onnx --pool c.onnx --data mnist/ -a pgd -n 200 -o pool.json
    """
    gates = tuple(parse_gate(text) for text in options["conditions"])
    tuning = {name: options[name] for name in ("epsilon", "confidence")}
    single = {name: options[name] for name in ("norm", "steps", "restarts", "widest", "queries")}
    tuning |= {name: () if value is None else (value,) for name, value in single.items()}
    tuning["all_targets"] = (True,) if options["all_targets"] else ()
    config = EvaluationConfig(
        attacks=grid(_attacks(ctx, options), tuning),
        adoption=_adoption(options),
        command=parse.command_line(ctx),
        **{
            name: options[name]
            for name in ("threats", "twin", "unlocked", "substitutes", "n", "seed", "eight_bit", "sanity")
        },
        device=options["device"],
        threads=options["threads"],
    )
    output: Path = options["output"]
    others = (path for paths in config.files.values() for path in paths)
    check_output(output, options["model"], *others, *options["pool"])
    if options["pool"]:
        _attack_pool(config, gates, options)
        return
    earlier = Results.load(output) if options["resume"] and output.exists() else None
    dataset = load_dataset(options["data"], size=options["size"])
    unfinished = Unfinished(output.with_name(f"{output.name}.parts"), resume=options["resume"])
    with stages() as stage, _keeping(output, unfinished) as keep:
        results = evaluate(
            config,
            options["model"],
            dataset,
            earlier=earlier,
            progress=stage,
            on_cell=keep,
            unfinished=unfinished,
            **_storing(options["save_images"], resume=options["resume"]),
        )
    results.save(output)
    unfinished.discard()
    _show(results, output, as_json=options["as_json"])
    check_gates(gates, results)


def _attacks(ctx: click.Context, options: dict[str, Any]) -> tuple[str, ...]:
    """Return what to run: of the default list what --norm can measure, and say so; `grid` refuses what was named."""
    names, norm = options["attacks"], options["norm"]
    if norm is None or ctx.get_parameter_source("attacks") is not ParameterSource.DEFAULT:
        return tuple(names)
    kept = measured_in(norm, names)
    left = ", ".join(name for name in names if name not in kept)
    if left:
        click.echo(f"left out {left}: its ε is in linf alone, not in --norm {norm}", err=True)
    return kept


def _attack_pool(config: EvaluationConfig, gates: tuple[Gate, ...], options: dict[str, Any]) -> None:
    """Attack several guards of which one answers; a gate holds when it holds for any member."""
    if options["save_images"] is not None:
        raise UsageError("--save-images: expected a single guard, got a pool; attack a member alone")
    output: Path = options["output"]
    earlier = load_results(output) if options["resume"] and output.exists() else None
    if isinstance(earlier, Results):
        raise UsageError(f"--resume: expected results of a pool at {output}, got those of one guard; choose another -o")
    dataset = load_dataset(options["data"], size=options["size"])
    with stages() as stage, _keeping(output) as keep:
        results = evaluate_pool(
            config, [options["model"], *options["pool"]], dataset, earlier=earlier, progress=stage, on_cell=keep
        )
    results.save(output)
    if options["as_json"]:
        print_json([_for_machines(one) for one in results.members])
    else:
        print_pool(results)
        click.echo(next_command("compare", output, "-o", output.with_suffix("")))
    for one in results.members:
        check_gates(gates, one, member=one.model.file)


def _show(results: Results, output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(_for_machines(results))
        return
    print_outcomes(results)
    click.echo(next_command("report", output, "-o", output.with_suffix(".html")))


def _storing(folder: Path | None, *, resume: bool) -> dict[str, Any]:
    """Return what `evaluate` needs to store images, if it is to."""
    if folder is None:
        return {}
    images = ImageFolder(folder, resume=resume)
    return {"on_images": images.keep, "reuses": images.holds}


@click.command()
@click.argument("results", type=_FILE, nargs=-1, required=True, metavar="RESULTS.json...")
@click.option("-o", "--output", type=_FILE, default="report.html", show_default=True, help="Where the page goes.")
@click.option("--md", "card", type=_FILE, metavar="FILE.md", help="Where a model card in Markdown goes, too.")
def report(results: tuple[Path, ...], output: Path, card: Path | None) -> None:
    """Turn the results of `cmt attack` into one HTML page that needs no network.

    Several results of one guard on one data set become one page.

    Example: cmt report results.json -o report.html

    Example: cmt report adaptive.json results.json -o report.html --md card.md
    """
    from calibration.report import write_report
    from calibration.report.model_card import write_card  # jinja2 and matplotlib, which the other commands do without

    check_output(output, *results)
    if card is not None:
        check_output(card, *results)
        if card.resolve() == output.resolve():
            raise UsageError(f"--md {card}: expected a file of its own, got that of the page; name another")
    parts = [Results.load(path) for path in results]
    joined = join(parts)
    write_report(joined, output, parts=parts)
    click.echo(f"wrote {output}")
    if card is not None:
        write_card(joined, card, parts=parts)
        click.echo(f"wrote {card}")


@contextlib.contextmanager
def _keeping(output: Path, unfinished: Unfinished | None = None) -> Iterator[Callable[[Results | PoolResults], None]]:
    """Write unfinished results as they grow, and say so when the work is interrupted."""
    kept = 0

    def keep(results: Results | PoolResults) -> None:
        nonlocal kept
        results.save(output)
        kept += 1

    try:
        yield keep
    except KeyboardInterrupt:
        done = [f"{kept} finished attacks in {output}, marked as incomplete"] if kept else []
        if unfinished is not None and unfinished.found:
            done.append(f"what is done of the next one in {unfinished.folder}")
        if done:
            click.echo(f"kept {', and '.join(done)}; --resume goes on", err=True)
        raise


def _adoption(options: dict[str, Any]) -> Adoption | None:
    """Return how to read a classifier that is no guard file, if the user said so."""
    given = {
        "input": options["input_name"],
        "logits": options["logits"],
        "mean": options["mean"],
        "std": options["std"],
    }
    given = {name: value for name, value in given.items() if value}
    return Adoption(**given) if given else None


def _for_machines(results: Results) -> dict[str, Any]:
    """Return the results without pictures, and what is concluded from them."""
    document = results.to_json()
    for cell in document["cells"]:
        del cell["examples"]
    finding = conclude(results)
    sanity = [{"name": one.name, "verdict": one.verdict, "figures": one.figures} for one in finding.sanity]
    return {**document, "finding": {"kind": finding.kind, "sentence": finding.sentence}, "sanity": sanity}
