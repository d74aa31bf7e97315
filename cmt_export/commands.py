"""The commands that need PyTorch: train, export, verify, demo. Options become frozen configuration here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from calibration import options as parse
from calibration.classmap import ClassmapConfig, Likelihood
from calibration.classmap import Shape as ClassmapShape
from calibration.datasets import load_dataset
from cmt_export.checkpoint import Checkpoint, Schedule
from cmt_export.exporting import OPSET
from cmt_export.exporting import export as export_file
from cmt_export.networks import TRUNKS
from cmt_export.objective import CHOICES, Recipe
from cmt_export.parity import ParityReport, check_parity
from cmt_export.pipeline import TrainingPlan, run_plan
from cmt_export.training import OnStep, Step
from runtime.artifact import read_artifact
from runtime.atomic import check_output
from runtime.errors import UsageError
from runtime.terminal import Report, print_json, print_table, stages

_Command = Callable[..., Any]

_DATA = click.argument("data", metavar="DATA")
_TRUNK = click.option(
    "--trunk", metavar="MODULE:FACTORY", help="Your own trunk; imported only because you name it here."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for machines.")


_SIZE = click.option("--size", metavar="HxW", callback=parse.size, help="Fit every image file to this size.")


_SCHEDULE_HELP = {
    "epochs": "Passes over the training images.",
    "batch_size": "Images a step.",
    "learning_rate": "Peak of the one-cycle schedule, Adam.",
    "seed": "Of weights, order, dropout and epsilon.",
}
_RECIPE_HELP = {
    "alpha": "Weight of the clean cross-entropy, Eq. 8.",
    "beta": "Weight of the attacked cross-entropy, Eq. 8.",
    "gamma": "Weight of the robust head's loss, Eq. 9.",
    "robust_loss": "How Z' leaves its pair on attacked images.",
    "literal_clamp": "Largest cross-entropy, in nats, that the literal form rewards.",
    "epsilon": "Largest step of the training FGS.",
    "epsilon_sampling": "Draw it from (0, epsilon] for each batch, or take epsilon.",
    "differentiated": "What the training FGS differentiates: Z* or Z.",
    "lock": "The gradient lock.",
    "lock_width": "Hidden units of g.",
}


def _options_of(configuration: Any, helps: dict[str, str]) -> Callable[[_Command], _Command]:
    """Return a decorator that adds an option for every field named in `helps`; defaults stand in the dataclass."""

    def decorate(command: _Command) -> _Command:
        for name in reversed(helps):
            default = getattr(configuration, name)
            kind = click.Choice(CHOICES[name]) if name in CHOICES else type(default)
            option = click.option(
                f"--{name.replace('_', '-')}", type=kind, default=default, show_default=True, help=helps[name]
            )
            command = option(command)
        return command

    return decorate


def _classmap_options(command: _Command) -> _Command:
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
@_DATA
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Where model.pt goes.")
@click.option("--recipe", type=click.Choice(["cmt", "none"]), help="The defence, or none.  [default: cmt]")
@click.option("--network", type=click.Choice(list(TRUNKS)), help="Train this network of Table 1 undefended.")
@_TRUNK
@_options_of(Schedule, _SCHEDULE_HELP)
@_options_of(Recipe, _RECIPE_HELP)
@_classmap_options
@_SIZE
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
@_JSON
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> None:
    """Train on DATA: the word digits, a folder with train/ and test/, or an .npz.

    The checkpoint is written after every epoch; Ctrl-C saves the state after the last step, and --resume continues to
    the same weights as an uninterrupted run.

    Example: cmt train mnist/ -o model.pt --epochs 6

    Example: cmt train mnist/ -o oracle.pt --network oracle
    """
    recipe: Any = options["recipe"] or ("none" if options["network"] else "cmt")
    if options["network"] and options["trunk"]:
        raise UsageError("--network and --trunk: expected one of them, got both")
    explicit = {name for name in options if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    plan = TrainingPlan(
        output=options["output"],
        recipe=Recipe(name=recipe, **{name: options[name] for name in _RECIPE_HELP}),
        schedule=Schedule(**{name: options[name] for name in _SCHEDULE_HELP}),
        trunk=options["trunk"] or options["network"] or "oracle",
        classmap_file=options["classmap"],
        classmap_config=ClassmapConfig(
            epsilon_max=options["epsilon"],
            epsilon=options["epsilon_sampling"],
            likelihood=options["classmap_likelihood"],
            shape=options["classmap_shape"],
            counts=options["classmap_counts"],
            seed=options["seed"],
        ),
        device=options["device"],
        precision=options["precision"],
        memory_format=options["memory_format"],
        threads=options["threads"],
        resume=options["resume"],
        explicit=frozenset(explicit),
    )
    check_output(plan.output, *filter(None, [plan.classmap_file]))
    data = load_dataset(options["data"], size=options["size"])
    with stages() as stage:
        checkpoint = run_plan(plan, data, lambda what: follow(stage(what)))
    _show_training(plan.output, checkpoint, as_json=options["as_json"])


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


def _set(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {content}" for name, content in value.items())
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:.4f}" if isinstance(value, float) else value


@click.command()
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="model.pt, written by cmt train.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="guard.onnx", show_default=True)
@click.option("--opset", type=int, default=OPSET, show_default=True, help="Version of ai.onnx, 18 to 21.")
@click.option("--resize", type=click.Choice(["bilinear", "bicubic", "none"]), default="bilinear", show_default=True)
@click.option("--max-pixels", type=int, default=1 << 24, show_default=True, help="Largest image file to decode.")
@_TRUNK
@_JSON
def export(
    ckpt: Path, output: Path, opset: int, resize: str, max_pixels: int, trunk: str | None, as_json: bool
) -> None:
    """Write a checkpoint as one ONNX file, after comparing its verdicts with PyTorch's.

    Example: cmt export --ckpt model.pt -o guard.onnx
    """
    checkpoint = Checkpoint.load(ckpt)
    exported = export_file(checkpoint, output, trunk=trunk, opset=opset, resize=resize, max_pixels=max_pixels)
    facts = {"file": str(output), "bytes": len(exported.model), "digest": exported.digest, "sha256": exported.sha256}
    if as_json:
        print_json(facts | {"parity": exported.parity.to_json()})
        return
    print_table(f"exported {ckpt}", [*facts.items(), ("parity", _parity_line(exported.parity))])
    click.echo(
        f"next: cmt score {output} FOLDER -o verdicts.csv    or: cmt attack {output} --data DATA -o results.json"
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="GUARD.onnx")
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="The checkpoint it was exported from.")
@click.option(
    "--data", metavar="DATA", help="Compare on this data's test split; by default on the checkpoint's images."
)
@click.option("-n", "n", type=int, default=1000, show_default=True, help="Test images of DATA to compare on.")
@_SIZE
@_TRUNK
@_JSON
def verify(
    model: Path, ckpt: Path, data: str | None, n: int, size: tuple[int, int] | None, trunk: str | None, as_json: bool
) -> None:
    """Check that GUARD.onnx decides like its checkpoint, verdict for verdict; exit code 6 if not.

    Example: cmt verify guard.onnx --ckpt model.pt --data mnist/
    """
    artifact, checkpoint = read_artifact(model), Checkpoint.load(ckpt)
    images = labels = None
    if data is not None:
        dataset = load_dataset(data, size=size)
        dataset.require_classes(checkpoint.classes, owner=str(ckpt))
        dataset.require_shape(artifact.spec.input_shape, owner=str(model))
        rows = dataset.test.sample(n)
        images, labels = dataset.test.images[rows], dataset.test.labels[rows]
    parity = check_parity(artifact.model, checkpoint.build(trunk), checkpoint, images=images, labels=labels)
    if as_json:
        print_json(parity.to_json())
    else:
        print_table(f"{model} against {ckpt}", [("parity", _parity_line(parity))])
    parity.require()


def _parity_line(parity: ParityReport) -> str:
    compared = f"{parity.benign} benign, {parity.adversarial} adversarial, {parity.near} near an edge"
    return (
        f"{parity.different} different verdicts on {compared}; {parity.undecidable} within rounding; "
        f"largest logit gap {parity.largest_logit_gap:.1e}"
    )


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="cmt-demo", show_default=True, metavar="DIR")
@click.option("--seed", type=int, default=0, show_default=True)
@_JSON
def demo(output: Path, seed: int, as_json: bool) -> None:
    """Go the whole way on scikit-learn's digits: train, export, verify, calibrate, attack, score, report.

    Needs no file and no network, and takes about two minutes on two cores.

    Example: cmt demo -o cmt-demo
    """
    from cmt_export.demo import run_demo

    run_demo(output, seed=seed, as_json=as_json)
