"""The whole way on scikit-learn's digits: train, export, verify, calibrate, attack, score, report."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from calibration.attacks import Fgs, Igs, Pgd
from calibration.classmap import ClassmapConfig
from calibration.datasets import Dataset, load_dataset
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.findings.outcome_table import print_outcomes
from calibration.gradients import GradientGraph
from calibration.pixels import to_images, to_pixels
from calibration.report import write_report
from calibration.results import Results
from calibration.thresholds import CalibrationConfig, calibrate
from cmt_export.checkpoint import Execution, Schedule
from cmt_export.exporting import export
from cmt_export.pipeline import ORACLE, TrainingPlan, run_plan
from cmt_export.recipes import Cmt
from cmt_export.training import OnStep, Step
from runtime.atomic import atomic_output, check_output
from runtime.errors import CmtError
from runtime.guard import Guard
from runtime.scoring import score_folder
from runtime.summary import Summary
from runtime.terminal import Report, print_json, stages

_EPSILON = 0.2
_ACCEPTANCE = 0.95
_ATTACKED = 180
"""Half of the 360 test images; the other half sets the threshold."""
_PICTURES = 60


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What the demo leaves in its folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "model.pt"

    @property
    def oracle(self) -> Path:
        return self.folder / "model.oracle.onnx"

    @property
    def guard(self) -> Path:
        return self.folder / "guard.onnx"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def verdicts(self) -> Path:
        return self.folder / "verdicts.csv"

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def run_demo(folder: Path, *, seed: int, as_json: bool) -> None:
    """Do all of it, into `folder`, and print what came out and what to try next.

    Raises:
        CmtError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CmtError(f"{folder}: expected to make this folder, got: {error.strerror}; choose another -o") from error
    files, data = _Files(folder=folder), load_dataset("digits")
    check_output(files.checkpoint)
    with stages() as stage:
        _make_guard(files, data, seed, stage)
        stage("calibrating on held-out images")
        _calibrate(files, data, seed)
        results = _attack(files, data, seed, stage)
        stage("writing and scoring PNG files")
        _write_pictures(files, data, results)
        with Guard(files.guard) as guard:
            summary = score_folder(guard, files.images, files.verdicts)
        stage("writing the report")
        write_report(results, files.report)
    if as_json:
        print_json(_facts(files, results, summary))
    else:
        _show(files, results, summary)


def _make_guard(files: _Files, data: Dataset, seed: int, stage: Any) -> None:
    """Train the oracle, estimate the Classmap, train the defended network, export it and check its verdicts."""
    plan = TrainingPlan(
        output=files.checkpoint,
        recipe=Cmt(epsilon=_EPSILON),
        schedule=Schedule(epochs=20, batch_size=64, learning_rate=2e-3, seed=seed),
        classmap_config=ClassmapConfig(epsilon_max=_EPSILON, seed=seed),
        # The networks are too small for a measurement to pay, and a fixed choice gives everyone the same bits.
        execution=Execution(device="cpu", precision="fp32", channels_last=True, threads=1),
    )
    files.checkpoint.unlink(missing_ok=True)
    plan.checkpoint_of(ORACLE).unlink(missing_ok=True)
    checkpoint = run_plan(plan, data, lambda what: _following(stage(what)))
    stage("exporting and comparing verdicts")
    export(checkpoint, files.guard)


def _following(report: Report) -> OnStep:
    def on_step(step: Step) -> None:
        report(step.epoch * step.steps + step.step, step.epochs * step.steps)

    return on_step


def _calibrate(files: _Files, data: Dataset, seed: int) -> None:
    config = CalibrationConfig(acceptance=_ACCEPTANCE, n=_ATTACKED, seed=seed)
    calibrated = calibrate(files.guard, data, config)
    with atomic_output(files.guard) as temporary:
        temporary.write_bytes(calibrated.model)


def _attack(files: _Files, data: Dataset, seed: int, stage: Any) -> Results:
    config = EvaluationConfig(
        attacks=tuple(kind(epsilon=epsilon) for kind in (Fgs, Igs, Pgd) for epsilon in (_EPSILON / 2, _EPSILON)),
        twin=files.oracle,
        n=_ATTACKED,
        seed=seed,
        command=(
            f"cmt attack {files.guard} --data digits --twin {files.oracle} -n {_ATTACKED} --seed {seed} "
            f"--epsilon {_EPSILON / 2},{_EPSILON} -o {files.results}"
        ),
    )
    results = evaluate(config, files.guard, data, progress=stage)
    results.save(files.results)
    return results


def _write_pictures(files: _Files, data: Dataset, results: Results) -> None:
    """Write benign images, and the same attacked with FGS and rounded to 8 bits, as PNG files by class."""
    rows = np.array(results.data.sample[:: max(1, len(results.data.sample) // _PICTURES)])
    images, labels = data.test.images[rows], data.test.labels[rows]
    graph = GradientGraph(files.guard, of=["logits"])
    attacked = to_images(Fgs(epsilon=_EPSILON)(graph, to_pixels(images), labels).x_adv)
    for kind, batch in (("benign", images), ("attacked", attacked)):
        for row, image, label in zip(rows, batch, labels, strict=True):
            _write_png(files.images / kind / data.classes[label] / f"{row:04d}.png", image)


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(path) as temporary:
        Image.fromarray(image[..., 0]).save(temporary, format="PNG")


def _facts(files: _Files, results: Results, summary: Summary) -> dict[str, Any]:
    cells = [
        {"threat": cell.threat, "reading": cell.reading, "attack": cell.attack, **cell.parameters, **vars(cell.counts)}
        for cell in results.cells
    ]
    return {
        "files": {name: str(getattr(files, name)) for name in ("checkpoint", "guard", "verdicts", "results", "report")},
        "benign": vars(results.benign.counts),
        "cells": json.loads(json.dumps(cells, default=str)),
        "scored": {"images": summary.images, "accepted": summary.accepted, "rejected": summary.rejected},
    }


def _show(files: _Files, results: Results, summary: Summary) -> None:
    print_outcomes(results)
    rejected = Counter(summary.rejected).total()
    click.echo(f"\nscored {summary.images} PNG files: {summary.accepted} accepted, {rejected} rejected")
    click.echo(f"in {files.folder}: {', '.join(path.name for path in sorted(files.folder.iterdir()))}")
    click.echo("\ntry next:")
    for command in (
        f"cmt info {files.guard}",
        f"cmt score {files.guard} {files.images} -o verdicts.jsonl",
        f"cmt attack {files.guard} --data digits --twin {files.oracle} -n {_ATTACKED} -a igs --epsilon 0.3",
        f"open {files.report}    (a browser shows it; it needs no network)",
    ):
        click.echo(f"  {command}")
