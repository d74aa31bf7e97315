"""What a Classmap owes to the way it was estimated, and what that does to detection.

    python benchmarks/classmaps.py --oracle oracle.onnx --data mnist/ -n 1000 --json results/classmaps/mnist.json
    python benchmarks/classmaps.py --detection --json results/classmaps/digits.json

The first estimates the Classmap of an exported, undefended network in all 32 ways: four attacks, softmax mass or
counts, least or most likely, one-to-one or for each class alone. The second does so on scikit-learn's digits, trains
small guards on every Classmap that came out, and attacks them: digits are small enough for all of them, MNIST is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calibration.classmap import ClassmapConfig
from calibration.datasets import Dataset, load_dataset
from calibration.evaluation.provenance import environment
from calibration.studies.classmap import ClassmapStudy, Estimated, same_partners, study_classmaps
from runtime.artifact import read_artifact
from runtime.terminal import stages

PARTS = (0.5, 1.0)
"""Of the largest change in training, what guards are attacked with."""

TRAINING = {"epochs": 15, "batch_size": 64, "learning_rate": 3e-3}


def main() -> None:
    """Measure, print Markdown tables, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle", type=Path, help="an exported undefended network")
    parser.add_argument("--data", default="digits", help="as for `cmt attack`")
    parser.add_argument("-n", type=int, default=1000, help="training images to attack")
    parser.add_argument("--epsilon", type=float, default=0.3, help="largest change of a pixel, of training and attacks")
    parser.add_argument("--draws", type=int, default=200, help="how often examples are drawn again for the stability")
    parser.add_argument(
        "--detection", action="store_true", help="train and attack a guard on digits for every Classmap"
    )
    parser.add_argument("--seeds", type=int, default=2, help="guards to train for every Classmap")
    parser.add_argument("--attacked", type=int, default=200, help="test images to attack each guard on")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime and PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    arguments = parser.parse_args()
    with stages() as stage, tempfile.TemporaryDirectory() as folder:
        if arguments.detection:
            dataset = load_dataset("digits")
            oracle = train_oracle(dataset, Path(folder), arguments.threads)
        else:
            dataset, oracle = load_dataset(arguments.data), arguments.oracle
        rows = dataset.train.sample(arguments.n, seed=0)
        images, labels = np.ascontiguousarray(dataset.train.images[rows]), dataset.train.labels[rows]
        model = read_artifact(oracle)
        study = study_classmaps(
            model.model,
            images,
            labels,
            config=ClassmapConfig(epsilon_max=arguments.epsilon),
            draws=arguments.draws,
            threads=arguments.threads,
            stage=stage,
        )
        lines = [*symmetry_table(study), "", *map_table(study)]
        detection = []
        if arguments.detection:
            detection = measure_detection(study, dataset, Path(folder), arguments, stage)
            lines += ["", *detection_table(study, detection)]
    print("\n".join(lines))
    if arguments.json:
        document = {
            "command": " ".join(["python", "benchmarks/classmaps.py", *sys.argv[1:]]),
            "oracle": {"digest": model.spec.digest, "sha256": model.sha256},
            "data": {"name": dataset.name, "train": dataset.train.digest, "test": dataset.test.digest},
            "environment": asdict(environment(device="cpu", threads=arguments.threads)),
            "study": asdict(study),
            "epsilon": arguments.epsilon,
            "training": TRAINING if arguments.detection else None,
            "detection": detection,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def way(one: Estimated) -> str:
    """Return the way of an estimate in words."""
    config = one.config
    return f"{config.attack} | {'counts' if config.counts else 'mass'} | {config.likelihood} | {config.shape}"


def symmetry_table(study: ClassmapStudy) -> list[str]:
    """Return Markdown rows: whether confusion is symmetric, as the paper assumes."""
    lines = ["| attack | ended elsewhere | Bowker χ² | degrees | p | share with a counterpart |", "|---" * 6 + "|"]
    for attack, found in study.symmetry.items():
        figures = f"{found.statistic:.0f} | {found.degrees} | {found.p_value:.1e} | {found.symmetric_share:.2f}"
        lines.append(f"| {attack} | {100 * study.moved[attack]:.1f} % | {figures} |")
    return lines


def map_table(study: ClassmapStudy) -> list[str]:
    """Return Markdown rows: every way and its map, next to the default's."""
    lines = ["| attack | counted | likelihood | shape | M | as the default | ties | stability |", "|---" * 8 + "|"]
    for one in study.maps:
        shared = same_partners(one.classmap, study.maps[0].classmap)
        names = " ".join(map(str, one.classmap))
        lines.append(f"| {way(one)} | {names} | {shared:.1f} | {one.ties} | {one.stability:.2f} |")
    return lines


def small_trunk(input_shape: tuple[int, int, int]) -> Any:
    """A convolution, a pooling, one hidden layer: what digits of 8 by 8 need."""
    from torch import nn

    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), 128),
        nn.ReLU(),
    )


def train_guard(
    dataset: Dataset, recipe: Any, classmap: tuple[int, ...] | None, path: Path, *, seed: int, threads: int
) -> Path:
    """Train a small network, export it, and return where the file is."""
    from cmt_export.checkpoint import Execution, Schedule
    from cmt_export.exporting import export
    from cmt_export.run import start
    from cmt_export.training import train

    run = start(
        dataset,
        recipe=recipe,
        schedule=Schedule(**TRAINING, seed=seed),
        trunk="benchmarks.classmaps:small_trunk",
        classmap=classmap,
        execution=Execution(device="cpu", precision="fp32", channels_last=True, threads=threads),
    )
    checkpoint = train(run, path.with_suffix(".pt"))
    export(checkpoint, path, trunk="benchmarks.classmaps:small_trunk")
    return path


def train_oracle(dataset: Dataset, folder: Path, threads: int) -> Path:
    from cmt_export.recipes import Undefended

    return train_guard(dataset, Undefended(), None, folder / "oracle.onnx", seed=0, threads=threads)


def measure_detection(
    study: ClassmapStudy, dataset: Dataset, folder: Path, arguments: argparse.Namespace, stage: Any
) -> list[dict[str, Any]]:
    """Train and attack guards for every distinct Classmap; one record for each map and seed."""
    from calibration.attacks import Pgd
    from calibration.evaluation import EvaluationConfig, evaluate
    from cmt_export.recipes import Cmt

    config = EvaluationConfig(
        attacks=tuple(Pgd(epsilon=part * arguments.epsilon, steps=20, restarts=1) for part in PARTS),
        threats=("nearly-white-box", "grey-box"),
        n=arguments.attacked,
        device="cpu",
        threads=arguments.threads,
    )
    distinct = list(dict.fromkeys(one.classmap for one in study.maps))
    records = []
    for number, classmap in enumerate(distinct, 1):
        report = stage(f"guard {number} of {len(distinct)}")
        for seed in range(arguments.seeds):
            path = folder / f"guard-{number}-{seed}.onnx"
            train_guard(dataset, Cmt(epsilon=arguments.epsilon), classmap, path, seed=seed, threads=arguments.threads)
            results = evaluate(config, path, dataset)
            cells = [
                {
                    "threat": cell.threat,
                    "attack": cell.attack,
                    "epsilon": cell.parameters["epsilon"],
                    "fooled": cell.rates.fooled.value,
                    "rejected": cell.rates.rejected.value,
                }
                for cell in results.cells
            ]
            benign = results.benign.rates
            records.append(
                {
                    "classmap": classmap,
                    "seed": seed,
                    "accuracy": benign.right_label.value,
                    "rejected": benign.rejected.value,
                    "cells": cells,
                }
            )
            report(seed + 1, arguments.seeds)
    return records


def detection_table(study: ClassmapStudy, detection: list[dict[str, Any]]) -> list[str]:
    """Return Markdown rows: what PGD gets past each map, means over seeds; who knows the rule decides the order."""
    wanted = [(cell["threat"], cell["epsilon"]) for cell in detection[0]["cells"]]
    heads = " | ".join(f"{threat}, {epsilon:g}" for threat, epsilon in wanted)
    lines = [f"| M | ways | benign rejected | {heads} |", "|---" * (3 + len(wanted)) + "|"]
    rows = []
    for classmap in dict.fromkeys(tuple(record["classmap"]) for record in detection):
        own = [record for record in detection if tuple(record["classmap"]) == classmap]
        fooled = [
            np.mean(
                [
                    cell["fooled"]
                    for record in own
                    for cell in record["cells"]
                    if (cell["threat"], cell["epsilon"]) == key
                ]
            )
            for key in wanted
        ]
        known = [share for share, (threat, _) in zip(fooled, wanted, strict=True) if threat == "nearly-white-box"]
        ways = sum(one.classmap == classmap for one in study.maps)
        rejected = np.mean([record["rejected"] for record in own])
        shares = " | ".join(f"{100 * value:.1f}" for value in fooled)
        rows.append((np.mean(known), f"| {' '.join(map(str, classmap))} | {ways} | {100 * rejected:.1f} | {shares} |"))
    return lines + [row for _, row in sorted(rows)]


if __name__ == "__main__":
    main()
