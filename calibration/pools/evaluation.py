"""Attack a pool and let every member judge: the attacker knows all of them, and not which one will answer.

An image is left alone once every member is fooled; whoever is drawn then accepts it. What members make of the others is
an expectation, which `calibration.comparing.pointwise` counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from calibration.attacks import Attack, AttackResult, Deployed
from calibration.attacks.attack import BoolArray, FloatArray, IntArray, Report
from calibration.datasets import Dataset
from calibration.evaluation.cells import attack_key, record_cell, title
from calibration.evaluation.crafting import craft
from calibration.evaluation.planning import EvaluationConfig, Plan, make_plans
from calibration.evaluation.sweep import CHECKED_IMAGES, Progress, start_victims, untouched, with_graph_checks
from calibration.evaluation.target import Target
from calibration.evaluation.victims import open_victim
from calibration.gradients import GradientGraph
from calibration.pools.pool import DeployedPool, open_pool
from calibration.results import PoolResults, Results
from calibration.results.records import Cell
from calibration.results.resuming import check_resumable, key_of
from calibration.results.worst_case import worst_cases
from runtime.errors import UsageError
from runtime.guard import Guard


def _silent(what: str) -> Report:
    return lambda done, total: None


def _ignore(results: PoolResults) -> None:
    pass


def evaluate_pool(
    config: EvaluationConfig,
    guards: Sequence[str | os.PathLike[str]],
    dataset: Dataset,
    *,
    earlier: PoolResults | None = None,
    progress: Progress = _silent,
    on_cell: Callable[[PoolResults], None] = _ignore,
) -> PoolResults:
    """Attack several guards of which one answers each call, and count what became of every image by every member.

    Args:
        config: What to do; `sanity` and `adoption` are for single files.
        guards: Paths of the members, two or more; rules may differ.
        dataset: Whose test split the images are taken from.
        earlier: Results of the same sweep that was interrupted; its attacks are not repeated.
        progress: Told of images done, cell for cell.
        on_cell: Given the results so far after each attack, `complete` False.

    Raises:
        UsageError: A file, the data or an option does not fit, or `earlier` is of another sweep.
        ModelError: A file is invalid, or cannot be differentiated.
        CmtError: An attack left its budget.
    """
    if config.sanity or config.adoption is not None:
        raise UsageError("--pool: expected guard files without --sanity, got one of these; run it for a member alone")
    opened = [open_victim(path, dataset, adoption=None) for path in guards]
    pool = open_pool(opened)
    plans = make_plans(config, pool, dataset, pool=[one.artifact.spec for one in opened])
    with ExitStack() as stack:
        running = [stack.enter_context(Guard(one.artifact.model, **config.running)) for one in opened]
        targets = [
            Target.open(guard, one, dataset, config, progress(f"benign images, {one.file}"))
            for guard, one in zip(running, opened, strict=True)
        ]
        results = [untouched(config, one, target, dataset) for one, target in zip(opened, targets, strict=True)]
        finished = _finished(earlier, results, plans)
        deployed = partial(DeployedPool, running, gallery=targets[0].gallery, seed=config.seed)
        for plan, victim, attacks in start_victims(plans, deployed, config):
            if isinstance(victim, GradientGraph):
                pixels = targets[0].pixels[:CHECKED_IMAGES]
                results = [with_graph_checks(one, plan.source, victim, pixels) for one in results]
            for attack in attacks:
                cells = finished.get(attack_key(plan, attack))
                if cells is None:
                    cells = _measure(plan, victim, attack, targets, report=progress(title(plan, attack)))
                results = [_with(one, cell, target) for one, cell, target in zip(results, cells, targets, strict=True)]
                on_cell(PoolResults(members=tuple(results)))
    return PoolResults(members=tuple(replace(one, complete=True) for one in results))


def _finished(
    earlier: PoolResults | None, now: Sequence[Results], plans: Sequence[Plan]
) -> dict[str, tuple[Cell, ...]]:
    if earlier is None:
        return {}
    if len(earlier.members) != len(now):
        raise UsageError(
            f"--resume: expected a pool of {len(now)}, got one of {len(earlier.members)}; choose another -o"
        )
    planned = {attack_key(plan, attack) for plan in plans for attack in plan.attacks}
    for before, after in zip(earlier.members, now, strict=True):
        check_resumable(before, after, planned)
    by_member = [{key_of(cell): cell for cell in one.cells} for one in earlier.members]
    return {key: tuple(cells[key] for cells in by_member) for key in by_member[0]}


def _measure(
    plan: Plan, victim: GradientGraph | Deployed, attack: Attack[Any], targets: Sequence[Target], *, report: Report
) -> tuple[Cell, ...]:
    """Craft one attack, and let every member judge the same images."""
    started = time.perf_counter()
    crafted = _craft(victim, attack, targets, report)
    return tuple(record_cell(plan, victim, attack, one, crafted, started=started)[0] for one in targets)


def _craft(
    victim: GradientGraph | Deployed, attack: Attack[Any], targets: Sequence[Target], report: Report
) -> AttackResult:
    def succeeded(x_adv: FloatArray, rows: IntArray) -> BoolArray:
        return np.asarray(np.all([one.fooled(x_adv, rows, budget=attack.budget) for one in targets], axis=0))

    first = targets[0]
    return craft(attack, victim, first.pixels, first.truth, succeeded=succeeded, report=report)


def _with(results: Results, cell: Cell, target: Target) -> Results:
    cells = (*results.cells, cell)
    return replace(results, cells=cells, worst_cases=worst_cases(target.columns, target.truth, cells))
