"""`cmt quantize`: the same guard in INT8, written only when it decides as before."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from calibration.datasets import load_dataset
from calibration.metrics import Interval
from calibration.options import DATA, SEED, SIZE, next_command
from calibration.quantization import QuantizationConfig, Quantized, Trial
from calibration.quantization import quantize as quantize_file
from calibration.quantization.gate import GateConfig, GateReport, Shift, compare
from runtime.artifact import read_artifact
from runtime.atomic import atomic_output, check_output
from runtime.cli import JSON, MODEL, THREADS
from runtime.terminal import print_json, print_table, stages

_FILE = click.Path(path_type=Path)


@click.command()
@MODEL
@DATA
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE.onnx", help="Where the INT8 file goes.")
@click.option("--images", type=int, default=512, show_default=True, help="Training images that ranges come from.")
@click.option("-n", type=int, default=1000, show_default=True, help="Test images that verdicts are compared on.")
@click.option("--attack/--no-attack", default=True, show_default=True, help="Attack both files and compare.")
@click.option("--attacked", type=int, default=200, show_default=True, help="How many of the test images to attack.")
@SEED
@SIZE
@THREADS
@JSON
def quantize(model: Path, data: str, size: tuple[int, int] | None, output: Path, as_json: bool, **options: Any) -> None:
    """Write GUARD.onnx in INT8: a quarter of the size, faster where the processor has 8-bit dot products.

    Ranges are measured on training images of DATA. How, and what stays in float, is chosen by how often the verdicts
    agree with those of GUARD.onnx on held-out test images; on others the finished file is judged. A threshold is set
    anew for the acceptance on record. Nothing is written, and the exit code is 6, when fewer than 99.5 % of the
    verdicts agree or an attack that knows the rule gets another share past the file, beyond its 95 % interval.

    Example: cmt quantize guard.onnx --data mnist/ -o guard-int8.onnx
    """
    check_output(output, model)
    attacked = options["attacked"] if options["attack"] else 0
    config = QuantizationConfig(images=options["images"], n=options["n"], seed=options["seed"])
    gate = GateConfig(n=options["n"], attacked=attacked, seed=options["seed"])
    dataset = load_dataset(data, size=size)
    with stages() as stage:
        found = quantize_file(model, dataset, config, threads=options["threads"], stage=stage)
        report = compare(model, found.model, dataset, gate, threads=options["threads"], stage=stage)
    if as_json:
        print_json(_facts(found, report, output))
    else:
        print_table(f"quantised {model} -> {output}", _rows(found, report))
    report.require()
    with atomic_output(output) as temporary:
        temporary.write_bytes(found.model)
    if not as_json:
        click.echo(next_command("attack", output, "--data", data, "-n", gate.n, "--seed", gate.seed))


def _facts(found: Quantized, report: GateReport, output: Path) -> dict[str, Any]:
    facts = {name: value for name, value in vars(found).items() if name not in ("model", "trials")}
    trials = [asdict(trial) for trial in found.trials]
    shifts = [{**asdict(shift), "holds": shift.holds} for shift in report.shifts]
    return {"file": str(output), **facts, "trials": trials, "gate": {**asdict(report), "shifts": shifts}}


def _rows(found: Quantized, report: GateReport) -> list[tuple[str, str]]:
    before, after = found.bytes
    rows = [(f"try {place}: {_choice(trial)}", _trial(trial)) for place, trial in enumerate(found.trials, 1)]
    rows += [
        ("chosen", _choice(found.chosen)),
        ("size", f"{before} -> {after} bytes, a factor of {after / before:.2f}"),
        ("same verdict", f"{_share(report.agreement)} of {report.images} benign test images"),
        ("accepted", "{:.4f} -> {:.4f}".format(*report.accepted)),
        ("right label", "{:.4f} -> {:.4f}".format(*report.right)),
        ("threshold", f"{found.threshold[0]} -> {found.threshold[1]}"),
    ]
    calibration = read_artifact(found.model).spec.calibration
    if calibration is not None:
        target, reached = calibration.acceptance, calibration.reached
        rows.append(("set for", f"{target} of correctly classified images, reaches {reached:.4f}"))
    return rows + [_shift(shift, report.attacked) for shift in report.shifts]


def _choice(trial: Trial) -> str:
    return f"{trial.method}, {trial.floats} in float"


def _trial(trial: Trial) -> str:
    return f"same verdict {_share(trial.agreement)}, confidence off by {trial.confidence_gap:.5f}"


def _shift(shift: Shift, attacked: int) -> tuple[str, str]:
    led = "" if shift.crafted_on == "itself" else " led by fp32"
    moved = "" if shift.holds else ", moved"
    return (
        f"fooled by {shift.attack} {shift.epsilon:g}{led}",
        f"{_share(shift.before)} -> {_share(shift.after)} of {attacked}{moved}",
    )


def _share(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
