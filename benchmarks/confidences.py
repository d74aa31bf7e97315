"""Which confidence a guard of two heads should reject by: five, each against an attacker who ascends that very one.

    python benchmarks/confidences.py cmt.onnx --data mnist -n 200 --json results/confidences/mnist.json

Everything is drawn from the seed; the README beside the results says what was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calibration.datasets import load_dataset
from calibration.evaluation.provenance import environment
from calibration.metrics import Interval
from calibration.studies.confidence import Compared, StudyConfig, study_confidences
from runtime.artifact import read_artifact
from runtime.cpus import usable_cpus
from runtime.terminal import stages


def main() -> None:
    """Measure, print two tables, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("guard", type=Path, help="a guard file with the rule pair")
    parser.add_argument("--data", required=True, help="as for `cmt attack`")
    parser.add_argument("-n", type=int, default=StudyConfig.n, help="test images to attack")
    parser.add_argument("--steps", type=int, default=StudyConfig.steps, help="of PGD")
    parser.add_argument("--restarts", type=int, default=StudyConfig.restarts, help="of PGD")
    parser.add_argument("--seed", type=int, default=StudyConfig.seed, help="what is drawn is drawn with it")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="threads of ONNX Runtime")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    arguments = parser.parse_args()
    config = StudyConfig(n=arguments.n, steps=arguments.steps, restarts=arguments.restarts, seed=arguments.seed)
    dataset = load_dataset(arguments.data)
    with stages() as stage:
        found = study_confidences(arguments.guard, dataset, config, threads=arguments.threads, stage=stage)
    print("\n".join([*attack_table(found), "", *noise_table(found)]))
    if arguments.json:
        artifact = read_artifact(arguments.guard)
        document = {
            "command": " ".join(["python", "benchmarks/confidences.py", *sys.argv[1:]]),
            "config": asdict(config),
            "model": {"digest": artifact.spec.digest, "sha256": artifact.sha256},
            "data": dataset.test.digest,
            "environment": asdict(environment(device="cpu", threads=arguments.threads)),
            "confidences": [asdict(one) for one in found],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def attack_table(found: tuple[Compared, ...]) -> list[str]:
    """Return Markdown rows: what fools each confidence at 99 % benign acceptance, percent."""
    lines = [
        "| confidence | ε | fooled, own objective | fooled, worst objective | fooled, naive FGS | AUROC, worst |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        for attack in one.attacks:
            area = "undefined" if attack.area is None else f"{attack.area:.3f}"
            shares = " | ".join(percent(value) for value in (attack.own, attack.worst, attack.naive))
            lines.append(f"| {one.name} | {attack.epsilon:g} | {shares} | {area} |")
    return lines


def noise_table(found: tuple[Compared, ...]) -> list[str]:
    """Return Markdown rows: what each confidence still accepts after harmless changes, percent."""
    names = [one.name for one in found]
    lines = [f"| change | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for change in found[0].accepted:
        shares = " | ".join(f"{100 * one.accepted[change].value:.1f}" for one in found)
        lines.append(f"| {change} | {shares} |")
    return lines


def percent(interval: Interval) -> str:
    """Return a share and its 95 % interval."""
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f}-{100 * interval.high:.1f})"


if __name__ == "__main__":
    main()
