"""One attack under one threat: crafted, checked, judged, counted, and recorded."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from calibration.attacks import Attack, AttackResult, Deployed
from calibration.attacks.attack import BATCH_SIZE, BoolArray, FloatArray, IntArray, Keep, Report, craft_anew
from calibration.evaluation.crafting import check_budget, craft
from calibration.evaluation.examples import choose_rows, make_examples
from calibration.evaluation.planning import Plan
from calibration.evaluation.provenance import parameters
from calibration.evaluation.target import Judged, Target
from calibration.evaluation.unfinished import UnfinishedAttack
from calibration.gradients import GradientGraph
from calibration.metrics import count, rate
from calibration.results.detection_figures import detection_figures
from calibration.results.image_columns import ChangeColumns
from calibration.results.records import Cell, Source
from calibration.results.resuming import cell_key


def title(plan: Plan, attack: Attack[Any]) -> str:
    """Return what progress calls an attack under a threat."""
    radius = "" if attack.budget is None else f", epsilon {attack.budget.epsilon:g}"
    return f"{plan.threat.name} {plan.threat.reading}: {attack.name}{radius}"


def craft_on(
    target: Target,
    attack: Attack[Any],
    victim: GradientGraph | Deployed,
    *,
    rows: IntArray,
    report: Report,
    keep: Keep = craft_anew,
) -> AttackResult:
    """Attack some images of the target, told by its own verdicts where an attack has succeeded.

    Args:
        target: What is attacked.
        attack: With what.
        victim: What the attacker differentiates or asks.
        rows: Which images, ``(n,)``, n at least 1.
        report: Told of ``(done, total)`` images.
        keep: Asked for each batch, see `Keep`.

    Raises:
        ModelError: A gradient is not finite.
        CmtError: The attack left its budget.
    """

    def succeeded(x_adv: FloatArray, places: IntArray) -> BoolArray:
        return target.fooled(x_adv, rows[places], budget=attack.budget)

    return craft(
        attack,
        victim,
        target.pixels[rows],
        target.truth[rows],
        targets=target.runners_up[rows] if "targets" in attack.inputs else None,
        succeeded=succeeded,
        report=report,
        keep=keep,
    )


def measure_cell(
    plan: Plan,
    victim: GradientGraph | Deployed,
    attack: Attack[Any],
    target: Target,
    *,
    report: Report,
    unfinished: UnfinishedAttack | None = None,
) -> tuple[Cell, Judged]:
    """Craft, check, judge and count one attack under one threat.

    Args:
        plan: Who attacks which file.
        victim: That file, started.
        attack: With what.
        target: What is attacked.
        report: Told of ``(done, total)`` images.
        unfinished: What an interrupted run has done of it, and where this one keeps what it does; None keeps nothing.

    Returns:
        The record, and the attacked images it is about.

    Raises:
        ModelError: A gradient is not finite.
        CmtError: The attack left its budget.
    """
    started = time.perf_counter()
    rows = np.arange(len(target.truth))
    crafted = craft_on(target, attack, victim, rows=rows, report=report, keep=unfinished or craft_anew)
    if unfinished is not None:
        started -= unfinished.seconds
    return record_cell(plan, victim, attack, target, crafted, started=started)


def record_cell(
    plan: Plan,
    victim: GradientGraph | Deployed,
    attack: Attack[Any],
    target: Target,
    crafted: AttackResult,
    *,
    started: float,
) -> tuple[Cell, Judged]:
    """Check, judge and count what an attack made of every image of a target.

    Args:
        plan: Who attacked which file.
        victim: That file, started.
        attack: With what.
        target: What judges.
        crafted: What came of it.
        started: When it began, by `time.perf_counter`.

    Returns:
        The record, and the attacked images it is about.

    Raises:
        CmtError: The attack left its budget.
    """
    judged = target.judged(crafted.x_adv, np.arange(len(target.truth)), budget=attack.budget)
    check_budget(target.pixels, judged.pixels, budget=attack.budget)
    cell = Cell(
        threat=plan.threat.name,
        reading=plan.threat.reading,
        adaptive=plan.threat.adaptive,
        strength=plan.threat.strength,
        attack=attack.name,
        parameters=recorded_parameters(attack),
        source=source_of(plan, attack, straight_through=isinstance(victim, GradientGraph) and victim.straight_through),
        **_figures(target, judged),
        zero_gradients=int(crafted.no_gradient.sum()),
        gradients_per_image=float(crafted.gradients.mean()),
        queries_per_image=float(crafted.queries.mean()),
        seconds=time.perf_counter() - started,
    )
    return cell, judged


def recorded_parameters(attack: Attack[Any]) -> dict[str, Any]:
    """Return every hyper-parameter of an attack as its record has it."""
    return {**parameters(attack), "batch_size": BATCH_SIZE}


def attack_key(plan: Plan, attack: Attack[Any]) -> str:
    """Return the key of a planned attack: that of `resuming.key_of` for the finished one."""
    source = source_of(plan, attack)
    return cell_key(plan.threat.name, plan.threat.reading, attack.name, recorded_parameters(attack), source)


def source_of(plan: Plan, attack: Attack[Any], *, straight_through: bool = False) -> Source:
    """Return the record of what an attacker differentiates or asks."""
    opened = plan.source
    return Source(
        file=opened.file,
        digest=opened.artifact.spec.digest,
        sha256=opened.sha256,
        tensor="verdicts" if attack.asks else "+".join(attack.reads),
        straight_through=straight_through,
    )


def _figures(target: Target, judged: Judged) -> dict[str, Any]:
    """Return what follows from the verdicts and the pixels: the middle of a cell."""
    columns = target.pack(judged)
    outcomes = columns.outcomes(target.truth)
    counts = count(outcomes)
    change = np.abs(judged.pixels.astype(np.float64) - target.pixels).reshape(len(judged.pixels), -1)
    return {
        "counts": counts,
        "rates": rate(counts),
        "verdicts": columns,
        "changes": ChangeColumns.of(target.pixels, judged.pixels),
        "detection": detection_figures(
            target.columns.scores(target.truth),
            columns.scores(target.truth),
            threshold=target.guard.spec.threshold,
        ),
        "mean_l2": float(np.linalg.norm(change, axis=1).mean()),
        "mean_linf": float(change.max(axis=1).mean()),
        "largest_linf": float(change.max()),
        "examples": make_examples(
            choose_rows(target.columns.outcomes(target.truth), outcomes),
            sample=target.sample,
            truth=target.truth,
            images=(target.images, judged.images),
            verdicts=(target.benign, judged.verdicts),
        ),
    }
