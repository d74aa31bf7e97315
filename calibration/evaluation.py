"""Attack x threat x data -> `Results`: what an exported file lets through.

Attacks are crafted on whatever file the threat names and judged by the shipped rule of the file under attack, on the
very pixels that were made (`judge`), or on their 8-bit rounding by `Guard` itself. The budget is checked again here, so
that a defect of an attack cannot pass for a success.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.attacks import Attack, Budget
from calibration.attacks.attack import BATCH_SIZE, LossAttack
from calibration.crafting import check_budget, craft
from calibration.datasets import Dataset
from calibration.examples import choose_rows, make_examples
from calibration.gradients import GradientGraph
from calibration.judge import Judge, classify, round_to_images
from calibration.metrics import count, judge_outcomes, rate
from calibration.objectives import Objective
from calibration.pixels import to_images, to_pixels
from calibration.provenance import data_record, environment, model_record, parameters
from calibration.results import Cell, Results, Score, SelfCheck, Source
from calibration.threats import DEFAULT_NAMES, Role, Threat, choose_threats
from runtime.artifact import Artifact, read_artifact
from runtime.errors import UsageError
from runtime.guard import Guard
from runtime.verdicts import Verdicts

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Progress = Callable[[str], Callable[[int, int], None]]
"""Announces a piece of work by name and returns what to tell of ``(done, total)``."""

_CHECKED_IMAGES = 16


def _silent(what: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def _ignore(results: Results) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to attack with, as whom, on how many images.

    Attributes:
        attacks: What to attack with; the objective of each is replaced by that of the threat.
        threats: Names of threats, see `threats.NAMES`.
        twin: The undefended exported network, for the reading ``oracle``.
        unlocked: The defended network trained without the lock, for the reading ``z``.
        substitute: A network of the attacker's own, for ``black-box``.
        n: Size of the sample of test images, at least 1; all of them where there are fewer.
        seed: What the sample is drawn with.
        eight_bit: Whether attacked images are rounded to 8 bits, within the budget, before `Guard` judges them.
        device: As for `Guard`.
        threads: As for `Guard`.
        command: What to run to repeat it, for the record.

    Raises:
        UsageError: Nothing to attack with, the same attack twice, or `n` below 1.
    """

    attacks: tuple[Attack[Any], ...]
    threats: tuple[str, ...] = DEFAULT_NAMES
    twin: Path | None = None
    unlocked: Path | None = None
    substitute: Path | None = None
    n: int = 1000
    seed: int = 0
    eight_bit: bool = False
    device: str = "auto"
    threads: int | None = None
    command: str = ""

    def __post_init__(self) -> None:
        """Check what the threats and attacks do not check themselves."""
        if not self.attacks or len(set(self.attacks)) != len(self.attacks):
            raise UsageError(f"attacks: expected one or more different ones, got {len(self.attacks)}; name each once")
        if self.n < 1:
            raise UsageError(f"-n: expected at least 1 image, got {self.n}")
        if self.seed < 0:
            raise UsageError(f"--seed: expected 0 or more, got {self.seed}")

    @property
    def files(self) -> dict[Role, Path]:
        """The files beside the guard that were given, by role."""
        given: dict[Role, Path | None] = {
            "unlocked": self.unlocked,
            "twin": self.twin,
            "substitute": self.substitute,
        }
        return {role: path for role, path in given.items() if path is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """The file under attack, started, and what it says to the benign images."""

    guard: Guard
    judge: Judge
    sample: IntArray
    images: npt.NDArray[np.uint8]
    pixels: FloatArray
    truth: IntArray
    benign: Verdicts


def evaluate(
    config: EvaluationConfig,
    guard: str | os.PathLike[str],
    dataset: Dataset,
    *,
    progress: Progress = _silent,
    on_cell: Callable[[Results], None] = _ignore,
) -> Results:
    """Attack an exported file and count what became of every image.

    The strongest threat comes first. Images are attacked in blocks of 128, each block with a seed one higher than the
    one before it where the attack draws at random.

    Args:
        config: What to do.
        guard: Path of the file under attack.
        dataset: Whose test split the images are taken from.
        progress: Told of images done, cell for cell.
        on_cell: Given the results so far, `complete` False, after each cell: save them and an interruption loses
            nothing finished.

    Raises:
        UsageError: A file, the data or an option does not fit.
        ModelError: A file is invalid, or cannot be differentiated.
        CmtError: An attack left its budget.
    """
    artifact = read_artifact(guard)
    threats = choose_threats(config.threats, config.files, rule=artifact.spec.rule)
    files = {"guard": Path(guard), **config.files}
    artifacts = {role: artifact if role == "guard" else read_artifact(path) for role, path in files.items()}
    for role, path in files.items():
        _check_role(role, path, artifacts[role])
        dataset.require_classes(artifacts[role].spec.classes, owner=str(path))
        dataset.require_shape(artifacts[role].spec.input_shape, owner=str(path))
    options: dict[str, Any] = {"device": config.device, "threads": config.threads}
    with Guard(guard, sha256=artifact.sha256, **options) as running:
        target = _open_target(running, Judge(artifact, **options), dataset, config, progress)
        results = Results(
            complete=False,
            command=config.command,
            model=model_record(guard, artifact),
            data=data_record(dataset, target.sample, seed=config.seed, eight_bit=config.eight_bit),
            environment=environment(device=running.device, threads=config.threads),
            self_check=(),
            benign=_score(target.benign, target.truth),
            cells=(),
        )
        for threat in threats:
            path, attacked = files[threat.role], artifacts[threat.role]
            objective = threat.objective(artifact.spec.classmap)
            graph = GradientGraph(attacked.model, of=objective.reads, **options)
            results = replace(results, self_check=(*results.self_check, _self_check(path, graph, target.pixels)))
            tensor = "+".join(objective.reads)
            source = Source(file=str(path), digest=attacked.spec.digest, sha256=attacked.sha256, tensor=tensor)
            for attack in (_aim(attack, objective) for attack in config.attacks):
                cell = _cell(threat, source, graph, attack, target, eight_bit=config.eight_bit, progress=progress)
                results = replace(results, cells=(*results.cells, cell))
                on_cell(results)
    return replace(results, complete=True)


def _check_role(role: str, path: Path, artifact: Artifact) -> None:
    spec = artifact.spec
    if role == "twin" and spec.rule != "confidence":
        raise UsageError(f"--twin {path}: expected an undefended file, got one with the rule {spec.rule}")
    if role == "unlocked" and (spec.rule != "pair" or spec.recipe.get("lock", "none") != "none"):
        raise UsageError(
            f"--unlocked {path}: expected a defended file trained with --lock none, got the rule {spec.rule} "
            f"and the lock {spec.recipe.get('lock')}"
        )


def _open_target(guard: Guard, judge: Judge, dataset: Dataset, config: EvaluationConfig, progress: Progress) -> _Target:
    test = dataset.test
    sample = test.sample(config.n, seed=config.seed)
    images = np.ascontiguousarray(test.images[sample])
    report = progress("benign images")
    return _Target(
        guard=guard,
        judge=judge,
        sample=sample,
        images=images,
        pixels=to_pixels(images),
        truth=test.labels[sample],
        benign=classify(guard, images, lambda done: report(done, len(images))),
    )


def _cell(
    threat: Threat,
    source: Source,
    graph: GradientGraph,
    attack: Attack[Any],
    target: _Target,
    *,
    eight_bit: bool,
    progress: Progress,
) -> Cell:
    """Craft, check, judge and count one attack under one threat."""
    started = time.perf_counter()
    title = f"{threat.name} {threat.reading}: {attack.name}{_radius(attack)}"

    def succeeded(x_adv: FloatArray, rows: IntArray) -> BoolArray:
        verdicts = _judge(target, x_adv, rows, budget=attack.budget, eight_bit=eight_bit).verdicts
        return judge_outcomes(verdicts.labels, verdicts.accepted, target.truth[rows]).fooled

    crafted = craft(attack, graph, target.pixels, target.truth, succeeded=succeeded, report=progress(title))
    every = np.arange(len(target.truth))
    shown, judged, verdicts = _judge(target, crafted.x_adv, every, budget=attack.budget, eight_bit=eight_bit)
    check_budget(target.pixels, judged, budget=attack.budget)
    outcomes = judge_outcomes(verdicts.labels, verdicts.accepted, target.truth)
    benign = judge_outcomes(target.benign.labels, target.benign.accepted, target.truth)
    counts = count(outcomes)
    change = np.abs(judged.astype(np.float64) - target.pixels).reshape(len(judged), -1)
    return Cell(
        threat=threat.name,
        reading=threat.reading,
        adaptive=threat.adaptive,
        strength=threat.strength,
        attack=attack.name,
        parameters={**parameters(attack), "batch_size": BATCH_SIZE},
        source=source,
        counts=counts,
        rates=rate(counts),
        mean_l2=float(np.linalg.norm(change, axis=1).mean()),
        mean_linf=float(change.max(axis=1).mean()),
        largest_linf=float(change.max()),
        zero_gradients=int(crafted.no_gradient.sum()),
        gradients_per_image=float(crafted.gradients.mean()),
        seconds=time.perf_counter() - started,
        examples=make_examples(
            choose_rows(benign, outcomes),
            sample=target.sample,
            truth=target.truth,
            images=(target.images, shown),
            verdicts=(target.benign, verdicts),
        ),
    )


class _Judged(NamedTuple):
    """Attacked images: as 8 bits, as the pixels that were judged, and the verdicts."""

    images: npt.NDArray[np.uint8]
    pixels: FloatArray
    verdicts: Verdicts


def _aim(attack: Attack[Any], objective: Objective) -> Attack[Any]:
    return replace(attack, objective=objective) if isinstance(attack, LossAttack) else attack


def _radius(attack: Attack[Any]) -> str:
    return "" if attack.budget is None else f", epsilon {attack.budget.epsilon:g}"


def _judge(target: _Target, x_adv: FloatArray, rows: IntArray, *, budget: Budget | None, eight_bit: bool) -> _Judged:
    """Judge what was made of some images: the very pixels, or their 8-bit rounding by `Guard` itself."""
    if not eight_bit:
        return _Judged(to_images(x_adv), x_adv, target.judge.verdicts(x_adv))
    images = round_to_images(x_adv, target.images[rows], budget=budget)
    return _Judged(images, to_pixels(images), classify(target.guard, images))


def _score(verdicts: Verdicts, truth: IntArray) -> Score:
    counts = count(judge_outcomes(verdicts.labels, verdicts.accepted, truth))
    return Score(counts=counts, rates=rate(counts))


def _self_check(path: Path, graph: GradientGraph, pixels: FloatArray) -> SelfCheck:
    found = graph.self_check(pixels[:_CHECKED_IMAGES])
    return SelfCheck(
        file=str(path), of=graph.of, relative_error=found.relative_error, images=found.images, seed=found.seed
    )
