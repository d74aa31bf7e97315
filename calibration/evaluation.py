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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.attacks import Attack, Budget, Deployed, Gallery
from calibration.attacks.attack import BATCH_SIZE, Victim
from calibration.crafting import check_budget, craft
from calibration.datasets import Dataset
from calibration.examples import choose_rows, make_examples
from calibration.gradients import GradientGraph
from calibration.judge import Judge, classify, round_to_images
from calibration.metrics import count, judge_outcomes, rate
from calibration.pixels import to_images, to_pixels
from calibration.planning import EvaluationConfig, Plan, make_plans
from calibration.provenance import data_record, environment, model_record, parameters
from calibration.results import Cell, Results, Score, SelfCheck, Source
from calibration.victims import open_victim
from runtime.guard import Guard
from runtime.verdicts import Verdicts

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Progress = Callable[[str], Callable[[int, int], None]]
"""Announces a piece of work by name and returns what to tell of ``(done, total)``."""

_CHECKED_IMAGES = 16
_GALLERY_IMAGES = 1000
"""Training images that an attacker who only asks has at hand."""


def _silent(what: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def _ignore(results: Results) -> None:
    pass


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
    gallery: Gallery


def evaluate(
    config: EvaluationConfig,
    guard: str | os.PathLike[str],
    dataset: Dataset,
    *,
    progress: Progress = _silent,
    on_cell: Callable[[Results], None] = _ignore,
) -> Results:
    """Attack an exported file and count what became of every image.

    The strongest threat comes first.

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
    opened = open_victim(guard, dataset, adoption=config.adoption)
    plans = make_plans(config, opened, dataset)
    with Guard(opened.artifact.model, **config.running) as running:
        target = _open_target(running, Judge(opened.artifact, **config.running), dataset, config, progress)
        results = Results(
            complete=False,
            command=config.command,
            model=model_record(opened),
            data=data_record(dataset, target.sample, seed=config.seed, eight_bit=config.eight_bit),
            environment=environment(device=running.device, threads=config.threads),
            self_check=(),
            benign=_score(target.benign, target.truth),
            cells=(),
        )
        for plan in plans:
            for victim, attacks in _victims(plan, target, config):
                if isinstance(victim, GradientGraph):
                    check = _self_check(plan.source.file, victim, target.pixels)
                    results = replace(results, self_check=(*results.self_check, check))
                for attack in attacks:
                    cell = _cell(plan, victim, attack, target, eight_bit=config.eight_bit, progress=progress)
                    results = replace(results, cells=(*results.cells, cell))
                    on_cell(results)
    return replace(results, complete=True)


def _victims(
    plan: Plan, target: _Target, config: EvaluationConfig
) -> list[tuple[GradientGraph | Deployed, tuple[Attack[Any], ...]]]:
    """Start what is attacked: the guard as it is deployed, or one gradient graph for each choice of logits."""
    if plan.threat.asks:
        return [(Deployed(target.guard, gallery=target.gallery), plan.attacks)]
    by_logits: dict[tuple[str, ...], list[Attack[Any]]] = {}
    for attack in plan.attacks:
        by_logits.setdefault(attack.reads, []).append(attack)
    model = plan.source.artifact.model
    return [(GradientGraph(model, of=of, **config.running), tuple(attacks)) for of, attacks in by_logits.items()]


def _open_target(guard: Guard, judge: Judge, dataset: Dataset, config: EvaluationConfig, progress: Progress) -> _Target:
    test = dataset.test
    sample = test.sample(config.n, seed=config.seed)
    images = np.ascontiguousarray(test.images[sample])
    report = progress("benign images")
    shown = dataset.train.sample(_GALLERY_IMAGES, seed=config.seed)
    return _Target(
        guard=guard,
        judge=judge,
        sample=sample,
        images=images,
        pixels=to_pixels(images),
        truth=test.labels[sample],
        benign=classify(guard, images, lambda done: report(done, len(images))),
        gallery=Gallery(images=np.ascontiguousarray(dataset.train.images[shown]), labels=dataset.train.labels[shown]),
    )


def _cell(
    plan: Plan,
    victim: GradientGraph | Deployed,
    attack: Attack[Any],
    target: _Target,
    *,
    eight_bit: bool,
    progress: Progress,
) -> Cell:
    """Craft, check, judge and count one attack under one threat."""
    started, threat = time.perf_counter(), plan.threat
    title = f"{threat.name} {threat.reading}: {attack.name}{_radius(attack)}"

    def succeeded(x_adv: FloatArray, rows: IntArray) -> BoolArray:
        verdicts = _judge(target, x_adv, rows, budget=attack.budget, eight_bit=eight_bit).verdicts
        return judge_outcomes(verdicts.labels, verdicts.accepted, target.truth[rows]).fooled

    crafted = craft(
        attack,
        victim,
        target.pixels,
        target.truth,
        targets=_runners_up(target) if "targets" in attack.inputs else None,
        succeeded=succeeded,
        report=progress(title),
    )
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
        source=_source(plan, victim, attack),
        counts=counts,
        rates=rate(counts),
        mean_l2=float(np.linalg.norm(change, axis=1).mean()),
        mean_linf=float(change.max(axis=1).mean()),
        largest_linf=float(change.max()),
        zero_gradients=int(crafted.no_gradient.sum()),
        gradients_per_image=float(crafted.gradients.mean()),
        queries_per_image=float(crafted.queries.mean()),
        seconds=time.perf_counter() - started,
        examples=make_examples(
            choose_rows(benign, outcomes),
            sample=target.sample,
            truth=target.truth,
            images=(target.images, shown),
            verdicts=(target.benign, verdicts),
        ),
    )


def _source(plan: Plan, victim: Victim, attack: Attack[Any]) -> Source:
    opened = plan.source
    return Source(
        file=opened.file,
        digest=opened.artifact.spec.digest,
        sha256=opened.sha256,
        tensor="verdicts" if attack.asks else "+".join(attack.reads),
        straight_through=isinstance(victim, GradientGraph) and victim.straight_through,
    )


def _runners_up(target: _Target) -> IntArray:
    """Return the wrong label that the file finds likeliest on each benign image, ``(N,)``: what to reach first."""
    logits = np.where(np.isfinite(target.benign.logits), target.benign.logits, -np.inf)
    logits[np.arange(len(logits)), target.truth] = -np.inf
    return np.asarray(logits.argmax(axis=1))


def _radius(attack: Attack[Any]) -> str:
    return "" if attack.budget is None else f", epsilon {attack.budget.epsilon:g}"


class _Judged(NamedTuple):
    """Attacked images: as 8 bits, as the pixels that were judged, and the verdicts."""

    images: npt.NDArray[np.uint8]
    pixels: FloatArray
    verdicts: Verdicts


def _judge(target: _Target, x_adv: FloatArray, rows: IntArray, *, budget: Budget | None, eight_bit: bool) -> _Judged:
    """Judge what was made of some images: the very pixels, or their 8-bit rounding by `Guard` itself."""
    if not eight_bit:
        return _Judged(to_images(x_adv), x_adv, target.judge.verdicts(x_adv))
    images = round_to_images(x_adv, target.images[rows], budget=budget)
    return _Judged(images, to_pixels(images), classify(target.guard, images))


def _score(verdicts: Verdicts, truth: IntArray) -> Score:
    counts = count(judge_outcomes(verdicts.labels, verdicts.accepted, truth))
    return Score(counts=counts, rates=rate(counts))


def _self_check(file: str, graph: GradientGraph, pixels: FloatArray) -> SelfCheck:
    found = graph.self_check(pixels[:_CHECKED_IMAGES])
    return SelfCheck(file=file, of=graph.of, relative_error=found.relative_error, images=found.images, seed=found.seed)
