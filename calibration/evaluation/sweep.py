"""Attack x threat x data -> `Results`: what an exported file lets through.

Attacks are crafted on whatever file the threat names and judged by the shipped rule of the file under attack, on the
very pixels that were made (`judge`), or on their 8-bit rounding by `Guard` itself. The budget is checked again here, so
that a defect of an attack cannot pass for a success.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from calibration.attacks import Attack, Deployed
from calibration.attacks.attack import FloatArray
from calibration.availability import measure_availability
from calibration.datasets import Dataset
from calibration.evaluation.cells import attack_key, measure_cell, title
from calibration.evaluation.logits_check import check_logits, require_logits_of_file
from calibration.evaluation.planning import EvaluationConfig, Plan, make_plans
from calibration.evaluation.probes import find_strongest, repeat, run_probes
from calibration.evaluation.provenance import data_record, environment, model_record
from calibration.evaluation.target import Judged, Target
from calibration.evaluation.unfinished import Unfinished
from calibration.evaluation.victims import Opened, open_victim
from calibration.gradients import GradientGraph
from calibration.metrics import count, rate
from calibration.results import Results
from calibration.results.records import Cell, Score, SelfCheck
from calibration.results.resuming import check_resumable, key_of
from calibration.results.worst_case import worst_cases
from runtime.guard import Guard

Progress = Callable[[str], Callable[[int, int], None]]
"""Announces a piece of work by name and returns what to tell of ``(done, total)``."""

Keep = Callable[[Cell, Judged, Target], None]
"""Given one finished attack with its images, to store them."""

CHECKED_IMAGES = 16
"""Images that gradients of a file are checked on."""


def _silent(what: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def _ignore(*anything: object) -> None:
    pass


def _every(cell: Cell) -> bool:
    return True


def evaluate(
    config: EvaluationConfig,
    guard: str | os.PathLike[str],
    dataset: Dataset,
    *,
    earlier: Results | None = None,
    reuses: Callable[[Cell], bool] = _every,
    progress: Progress = _silent,
    on_cell: Callable[[Results], None] = _ignore,
    on_images: Keep = _ignore,
    unfinished: Unfinished | None = None,
) -> Results:
    """Attack an exported file and count what became of every image.

    The strongest threat comes first.

    Args:
        config: What to do.
        guard: Path of the file under attack.
        dataset: Whose test split the images are taken from.
        earlier: Results of the same sweep that was interrupted; its attacks are not repeated, unless `reuses` says no.
        reuses: Asked for each attack of `earlier` whether to take it over.
        progress: Told of images done, cell for cell.
        on_cell: Given the results so far, `complete` False, after each cell: save them and an interruption loses
            nothing finished.
        on_images: Given each attack as it is finished, with the attacked images.
        unfinished: What an interrupted run has done of attacks that it did not finish; None keeps nothing of them.

    Raises:
        UsageError: A file, the data or an option does not fit, or `earlier` is of another sweep.
        ModelError: A file is invalid, or cannot be differentiated.
        CmtError: An attack left its budget.
    """
    opened = open_victim(guard, dataset, adoption=config.adoption)
    plans = make_plans(config, opened, dataset)
    with Guard(opened.artifact.model, **config.running) as running:
        target = Target.open(running, opened, dataset, config, progress("benign images"))
        results = untouched(config, opened, target, dataset)
        finished = {key: cell for key, cell in _finished(earlier, results, plans).items() if reuses(cell)}
        for plan, victim, attacks in start_victims(
            plans, partial(Deployed, target.guard, gallery=target.gallery), config
        ):
            if isinstance(victim, GradientGraph):
                results = with_graph_checks(results, plan.source, victim, target.pixels[:CHECKED_IMAGES])
            for attack in attacks:
                key = attack_key(plan, attack)
                cell, begun = finished.get(key), None if unfinished is None else unfinished.attack(key, results)
                if cell is None:
                    told = progress(title(plan, attack))
                    cell, judged = measure_cell(plan, victim, attack, target, report=told, unfinished=begun)
                    on_images(cell, judged, target)
                cells = (*results.cells, cell)
                worst = worst_cases(target.columns, target.truth, cells)
                results = replace(results, cells=cells, worst_cases=worst)
                on_cell(results)
                if begun is not None:
                    begun.discard()
        if config.sanity:
            results = _probed(results, config, plans, target, dataset, progress)
    return replace(results, complete=True)


def untouched(config: EvaluationConfig, opened: Opened, target: Target, dataset: Dataset) -> Results:
    """Return what is known before the first attack."""
    counts = count(target.columns.outcomes(target.truth))
    return Results(
        complete=False,
        command=config.command,
        model=model_record(opened),
        data=data_record(dataset, target.sample, seed=config.seed, eight_bit=config.eight_bit),
        environment=environment(device=target.guard.device, threads=config.threads),
        self_check=(),
        logits_checks=(),
        repetition=None,
        benign=Score(counts=counts, rates=rate(counts), verdicts=target.columns),
        availability=tuple(measure_availability(target.guard, target.images, target.truth, seed=config.seed)),
        worst_cases=(),
        cells=(),
        probes=(),
    )


def _finished(earlier: Results | None, now: Results, plans: tuple[Plan, ...]) -> dict[str, Cell]:
    if earlier is None:
        return {}
    check_resumable(earlier, now, {attack_key(plan, attack) for plan in plans for attack in plan.attacks})
    return {key_of(cell): cell for cell in earlier.cells}


def start_victims(
    plans: tuple[Plan, ...], deployed: Callable[[], Deployed], config: EvaluationConfig
) -> Iterator[tuple[Plan, GradientGraph | Deployed, tuple[Attack[Any], ...]]]:
    """Start what is attacked: what is deployed, anew for each attack, or one gradient graph for each choice of logits.

    Args:
        plans: Who attacks which file with what.
        deployed: Returns what attacks that see decisions only may ask.
        config: How files are started.
    """
    for plan in plans:
        if plan.threat.asks:
            for attack in plan.attacks:
                yield plan, deployed(), (attack,)
            continue
        by_logits: dict[tuple[str, ...], list[Attack[Any]]] = {}
        for attack in plan.attacks:
            by_logits.setdefault(attack.reads, []).append(attack)
        for of, attacks in by_logits.items():
            yield plan, GradientGraph(plan.source.artifact.model, of=of, **config.running), tuple(attacks)


def with_graph_checks(results: Results, source: Opened, graph: GradientGraph, pixels: FloatArray) -> Results:
    """Return results with what was found about one differentiated file, tried on images ``(n, C, H, W)``.

    Raises:
        ModelError: The gradient graph gives other logits than the file.
    """
    require_logits_of_file(source.file, source.artifact.model, graph, pixels)
    found = graph.self_check(pixels)
    check = SelfCheck(
        file=source.file, of=graph.of, relative_error=found.relative_error, images=found.images, seed=found.seed
    )
    logits = check_logits(source.file, source.artifact.model, graph, pixels)
    return replace(
        results,
        self_check=(*results.self_check, check),
        logits_checks=tuple(dict.fromkeys((*results.logits_checks, *logits))),
    )


def _probed(
    results: Results,
    config: EvaluationConfig,
    plans: tuple[Plan, ...],
    target: Target,
    dataset: Dataset,
    progress: Progress,
) -> Results:
    """Add what sanity checks need beyond the planned attacks."""
    strongest = find_strongest(plans, results.cells)
    if strongest is None:
        return results
    twin = next((plan.source for plan in plans if plan.threat.role == "twin"), None)
    probes = run_probes(config, strongest, target, twin=twin, dataset=dataset, progress=progress)
    return replace(results, repetition=repeat(config, strongest, target), probes=tuple(probes))
