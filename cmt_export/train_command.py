"""`cmt train`: options become a plan, and the plan a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from calibration.classmap import ClassmapConfig, Likelihood
from calibration.classmap import Shape as ClassmapShape
from calibration.datasets import Dataset, load_dataset
from calibration.datasets.wording import listed
from calibration.options import SIZE
from cmt_export.checkpoint import Checkpoint, Schedule
from cmt_export.networks import TRUNKS
from cmt_export.options import SCHEDULE_HELP, TRUNK, read_recipe_options, recipe_options, schedule_options
from cmt_export.pipeline import TrainingPlan, run_plan
from cmt_export.recipes import RECIPES, PairRecipe, Recipe
from cmt_export.training import OnStep, Step
from runtime.atomic import check_output
from runtime.cli import JSON
from runtime.errors import UsageError
from runtime.terminal import Report, print_json, print_table, stages

_MANY_REJECTED = 0.2
"""Share of benign images from which a guard that was just trained is not worth exporting yet."""

_UNEVEN = 20
"""How many times as many training images one class may have as another without a word."""

_CLASSMAP_OPTIONS = ("classmap", "classmap_likelihood", "classmap_shape", "classmap_counts")


def _classmap_options(command: Callable[..., Any]) -> Callable[..., Any]:
    defaults = ClassmapConfig()
    for option in reversed(
        (
            click.option(
                "--classmap",
                type=click.Path(path_type=Path),
                metavar="ORACLE.onnx",
                help="Estimate the Classmap on this file; without it an oracle is trained first.",
            ),
            click.option(
                "--classmap-likelihood",
                type=click.Choice(get_args(Likelihood)),
                default=defaults.likelihood,
                show_default=True,
                help="Pair with the least or (Eq. 7 as printed) the most likely wrong class.",
            ),
            click.option(
                "--classmap-shape",
                type=click.Choice(get_args(ClassmapShape)),
                default=defaults.shape,
                show_default=True,
                help="One partner for each class alone, or each row by itself as in the paper.",
            ),
            click.option("--classmap-counts", is_flag=True, help="Count predictions (paper) instead of softmax mass."),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("data", metavar="DATA")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Where model.pt goes.")
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="The defence, or none.  [default: cmt]")
@click.option("--network", type=click.Choice(list(TRUNKS)), help="A built-in trunk; without --recipe undefended.")
@TRUNK
@schedule_options
@recipe_options
@_classmap_options
@SIZE
@click.option("--resume", is_flag=True, help="Continue the unfinished run in OUTPUT, or start it.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option(
    "--memory-format",
    type=click.Choice(["auto", "contiguous", "channels-last"]),
    default="auto",
    show_default=True,
    help="With --precision: the same bits from every run; auto measures both.",
)
@click.option("--threads", type=int, metavar="N", help="Of PyTorch; by default all usable processors.")
@JSON
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> None:
    """Train on DATA: the word digits, a folder with train/ and test/, or an .npz.

    The checkpoint is written after every epoch; Ctrl-C saves the state after the last step, and --resume continues to
    the same weights as an uninterrupted run. In brackets stand the recipes that have an option, and their defaults.

    Example: cmt train mnist/ -o model.pt --epochs 6

    Example: cmt train mnist/ -o hardened.pt --recipe hardened --epochs 12

    Example: cmt train mnist/ -o oracle.pt --network oracle
    """
    if options["network"] and options["trunk"]:
        raise UsageError("--network and --trunk: expected one of them, got both")
    explicit = {name for name in options if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    name = options["recipe"] or ("none" if options["network"] else "cmt")
    recipe = read_recipe_options(name, options, explicit)
    plan = TrainingPlan(
        output=options["output"],
        recipe=recipe,
        schedule=Schedule(**{name: options[name] for name in SCHEDULE_HELP}),
        trunk=options["trunk"] or options["network"] or "oracle",
        classmap_file=options["classmap"],
        classmap_config=_classmap_config(recipe, options, explicit),
        device=options["device"],
        precision=options["precision"],
        memory_format=options["memory_format"],
        threads=options["threads"],
        resume=options["resume"],
        explicit=frozenset(explicit),
    )
    check_output(plan.output, *filter(None, [plan.classmap_file]))
    data = load_dataset(options["data"], size=options["size"])
    _warn_of_classes(data)
    with stages() as stage:
        checkpoint = run_plan(plan, data, lambda what: follow(stage(what)))
    _show_training(plan.output, checkpoint, as_json=options["as_json"])
    _warn_of_rejections(checkpoint.history[-1].get("rejected", 0.0))


def _classmap_config(recipe: Recipe, options: dict[str, Any], explicit: set[str]) -> ClassmapConfig | None:
    if not isinstance(recipe, PairRecipe):
        given = [option for option in _CLASSMAP_OPTIONS if option in explicit]
        if given:
            having = ", ".join(name for name, kind in RECIPES.items() if kind.rule == "pair")
            raise UsageError(
                f"--{given[0].replace('_', '-')}: expected a recipe with a Classmap ({having}), "
                f"got --recipe {recipe.name}; leave it out"
            )
        return None
    epsilon_max, epsilon = recipe.classmap_steps
    return ClassmapConfig(
        epsilon_max=epsilon_max,
        epsilon=epsilon,
        likelihood=options["classmap_likelihood"],
        shape=options["classmap_shape"],
        counts=options["classmap_counts"],
        seed=options["seed"],
    )


def follow(report: Report) -> OnStep:
    """Return what tells `report` of every training step, and prints a line for each finished epoch."""

    def on_step(step: Step) -> None:
        report(step.epoch * step.steps + step.step, step.epochs * step.steps)
        if step.record:
            record = ", ".join(f"{name} {value:.4f}" for name, value in step.record.items())
            click.echo(f"epoch {step.epoch + 1} of {step.epochs}: {record}", err=True)

    return on_step


def _show_training(path: Path, checkpoint: Checkpoint, *, as_json: bool) -> None:
    facts: dict[str, Any] = {"checkpoint": str(path), **checkpoint.history[-1], "epochs": len(checkpoint.history)}
    facts |= {"classmap": checkpoint.classmap, "execution": vars(checkpoint.execution)}
    if as_json:
        print_json(facts)
        return
    rows = [(name.replace("_", " "), _set(value)) for name, value in facts.items() if value is not None]
    print_table(f"trained {checkpoint.recipe.name} on {checkpoint.data['name']}", rows)
    click.echo(f"next: cmt export --ckpt {path}")


def _warn_of_classes(data: Dataset) -> None:
    """Say it where classes have no image, or hardly any beside others."""
    train, test = (np.bincount(split.labels, minlength=len(data.classes)) for split in (data.train, data.test))
    for kind, counts in (("training", train), ("test", test)):
        absent = [name for name, count in zip(data.classes, counts, strict=True) if not count]
        if absent:
            click.echo(f"warning: no {kind} image of {listed(absent)}", err=True)
    least, most = int(train.argmin()), int(train.argmax())
    if 0 < train[least] * _UNEVEN < train[most]:
        click.echo(
            f"warning: training images are uneven, from {train[least]} of {data.classes[least]} to {train[most]} of "
            f"{data.classes[most]}: rare classes are hardly learned",
            err=True,
        )


def _warn_of_rejections(share: float) -> None:
    if share > _MANY_REJECTED:
        mend = "train longer (--epochs), or look at the images"
        click.echo(f"warning: {share:.0%} of the benign test images are rejected: {mend}", err=True)


def _set(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {content}" for name, content in value.items())
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:.4f}" if isinstance(value, float) else value
