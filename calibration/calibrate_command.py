"""`cmt calibrate`: set the acceptance threshold, or see whether it still holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from calibration.datasets import Dataset, load_dataset
from calibration.drift import ALARM, check_drift
from calibration.metrics import share
from calibration.options import DATA, SEED, SIZE, next_command
from calibration.thresholds import CalibrationConfig
from calibration.thresholds import calibrate as calibrate_file
from runtime.artifact import read_artifact
from runtime.atomic import atomic_output, check_output
from runtime.cli import DEVICE, JSON, MODEL, THREADS
from runtime.errors import GateFailed, StaleError, UsageError
from runtime.guard import Guard
from runtime.terminal import print_json, print_table, printable, progress

_FILE = click.Path(path_type=Path)


@click.command()
@MODEL
@DATA
@click.option(
    "--accept", "acceptance", type=float, metavar="SHARE", help="Of correctly classified images; not with --check."
)
@click.option("--per-class", is_flag=True, help="Keep the share of each class by itself.")
@click.option("--force", is_flag=True, help="Set the threshold of a file anew that has one already.")
@click.option("--check", is_flag=True, help="Set nothing: see whether new benign images are still accepted.")
@click.option("--state", type=_FILE, metavar="FILE.json", help="What --check has seen so far, from run to run.")
@click.option("-n", type=int, default=1000, show_default=True, help="Leave this many test images to `cmt attack -n`.")
@SEED
@SIZE
@click.option(
    "-o", "--output", type=_FILE, help="Where the file goes; without it GUARD.onnx itself gets the threshold."
)
@DEVICE
@THREADS
@JSON
def calibrate(model: Path, data: str, size: tuple[int, int] | None, check: bool, **options: Any) -> None:
    """Set the threshold of GUARD.onnx so that it accepts the given share of correctly classified images.

    The threshold is the largest with which the next correctly classified image is accepted with at least that
    probability. It is measured on the test images of DATA that `cmt attack` with the same -n and --seed does not touch.
    A warning says when these look unlike the ones that the file was measured on in training.

    With --check nothing is set: all test images of DATA count as new ones, and the command ends with exit code 6 when
    they show that the guard no longer accepts what it promised. It may be run every day.

    Example: cmt calibrate guard.onnx --data mnist/ --accept 0.99 -o calibrated.onnx

    Example: cmt calibrate calibrated.onnx --data today/ --check --state drift.json
    """
    if check == (options["acceptance"] is not None):
        raise UsageError("calibrate: expected either --accept SHARE or --check, got both or none")
    if check and options["force"]:
        raise UsageError("--force: expected --accept beside it, got --check, which sets nothing; leave it out")
    if not check and options["state"]:
        raise UsageError("--state: expected --check beside it, got --accept; leave it out")
    if check:
        _check_drift(model, load_dataset(data, size=size), options)
        return
    _set_threshold(model, data, size, options)


def _set_threshold(model: Path, data: str, size: tuple[int, int] | None, options: dict[str, Any]) -> None:
    config = CalibrationConfig(**{name: options[name] for name in ("acceptance", "per_class", "n", "seed")})
    target = options["output"] or model
    check_output(target)
    if not options["force"]:
        _require_uncalibrated(model)
    dataset = load_dataset(data, size=size)
    with progress("calibrating") as report:
        found = calibrate_file(
            model, dataset, config, device=options["device"], threads=options["threads"], progress=report, warn=_warn
        )
    with atomic_output(target) as temporary:
        temporary.write_bytes(found.model)
    if options["as_json"]:
        facts = {name: value for name, value in vars(found).items() if name != "model"}
        print_json({"file": str(target), "acceptance": config.acceptance, **facts})
        return
    right, low_high = found.right, found.interval
    print_table(
        f"calibrated {model} -> {target}",
        [
            ("threshold", found.threshold),
            ("accepted", f"{found.reached:.4f} of {right} correctly classified images, asked for {config.acceptance}"),
            ("95 % interval", f"{low_high[0]:.4f} to {low_high[1]:.4f}"),
            (
                "guaranteed",
                f"the next one, with a probability of {config.acceptance}" + ", in each class" * config.per_class,
            ),
            ("without a threshold", f"{found.reachable:.4f}"),
            ("held-out images", found.images),
            ("their digest", found.data),
        ],
    )
    click.echo(next_command("attack", target, "--data", data, "-n", config.n, "--seed", config.seed))


def _require_uncalibrated(model: Path) -> None:
    """Refuse a file whose threshold holds; a stale one is mended without a question."""
    try:
        record = read_artifact(model).spec.calibration
    except StaleError:
        return
    if record is not None:
        raise UsageError(
            f"{model}: expected a file without a threshold, got one calibrated for {record.acceptance} on "
            f"{record.images} images ({record.data[:12]}), reaching {record.reached:.4f}; --force sets it anew"
        )


def _warn(sentence: str) -> None:
    click.echo(f"warning: {printable(sentence)}", err=True)


def _check_drift(model: Path, dataset: Dataset, options: dict[str, Any]) -> None:
    """Print what new images say of the promise, and fail when they contradict it."""
    with Guard(model, device=options["device"], threads=options["threads"]) as guard, progress("checking") as report:
        found, right = check_drift(
            guard, dataset, options["state"], progress=lambda done: report(done, len(dataset.test)), warn=_warn
        )
    facts = {
        "acceptance": found.acceptance,
        "images": len(dataset.test),
        "right_now": right,
        "right": found.right,
        "accepted": found.accepted,
        "evidence": found.log_evidence / math.log(10),
        "alarm": math.log10(ALARM),
        "drifted": found.drifted,
    }
    if options["as_json"]:
        print_json(facts)
    else:
        interval = share(found.accepted, found.right) if found.right else None
        print_table(
            f"checked {model}",
            [
                ("promised", f"{found.acceptance} of correctly classified images"),
                ("right label", f"{right} of these {len(dataset.test)} images"),
                ("accepted so far", f"{found.accepted} of {found.right}"),
                ("95 % interval", "none" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"),
                ("evidence of a drift", f"10^{facts['evidence']:.2f}, an alarm at 10^{facts['alarm']:.0f}"),
            ],
        )
    if found.drifted:
        raise GateFailed(
            f"{model}: expected {found.acceptance} of correctly classified images accepted, got {found.accepted} of "
            f"{found.right}; the images have changed, calibrate on some of them or train again"
        )
