"""Attacks that are run for sanity checks alone (`cmt attack --sanity`): variants of the strongest planned one.

They do not enter the tables; what they are compared for is in `sanity.comparisons` and `sanity.figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from calibration.attacks import Attack, Budget, Deployed, Fgs
from calibration.attacks.attack import LossAttack
from calibration.attacks.random_noise import RandomNoise
from calibration.attacks.square import Square
from calibration.datasets import Dataset
from calibration.evaluation.cells import attack_key, craft_on, measure_cell, title
from calibration.evaluation.planning import EvaluationConfig, Plan
from calibration.evaluation.target import Target
from calibration.evaluation.victims import Opened
from calibration.gradients import GradientGraph
from calibration.results.phrasing import cell_name
from calibration.results.records import Cell, Probe, Repetition
from calibration.results.resuming import key_of
from calibration.threats import THREATS, aim
from runtime.guard import Guard

REPEATED_IMAGES = 8
"""Images that are attacked twice to see whether the same comes out."""

_NOISE_DRAWS = 10
_QUERIES = 500
"""Verdicts asked for per image; a mask that hides gradients rarely hides as many as these find."""

Progress = Callable[[str], Callable[[int, int], None]]


class _Variant(NamedTuple):
    """One attack to run, and who runs it."""

    purpose: str
    plan: Plan
    attack: Attack[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Strongest:
    """The planned attack that probes are variants of.

    Attributes:
        plan: Who runs it.
        attack: With every hyper-parameter.
        name: What tables call it.
    """

    plan: Plan
    attack: LossAttack
    name: str


def find_strongest(plans: tuple[Plan, ...], cells: tuple[Cell, ...]) -> Strongest | None:
    """Return the planned attack on the guard that fools most of those with gradients and a budget.

    Adaptive attacks come before all others. None where no attack is of that kind.
    """
    by_key = {key_of(cell): cell for cell in cells}
    found: list[tuple[tuple[bool, float], Strongest]] = []
    for plan in plans:
        for attack in plan.attacks:
            cell = by_key.get(attack_key(plan, attack))
            if cell and plan.threat.role == "guard" and isinstance(attack, LossAttack) and attack.budget:
                strongest = Strongest(plan=plan, attack=attack, name=cell_name(cell))
                found.append(((cell.adaptive, cell.rates.fooled.value), strongest))
    return max(found, key=lambda one: one[0])[1] if found else None


def run_probes(
    config: EvaluationConfig,
    strongest: Strongest,
    target: Target,
    *,
    twin: Opened | None,
    dataset: Dataset,
    progress: Progress,
) -> Iterator[Probe]:
    """Run every variant of the strongest attack, one after the other.

    Args:
        config: How files are started.
        strongest: The planned attack.
        target: What is attacked.
        twin: The undefended network, if there is one; it is attacked itself.
        dataset: Whose test split the images are taken from.
        progress: Told of images done.
    """
    for variant in _variants(strongest, target):
        yield _probe(variant, strongest, target, config, progress)
    if twin is not None:
        yield _attack_twin(twin, strongest, config, dataset, progress)


def repeat(config: EvaluationConfig, strongest: Strongest, target: Target) -> Repetition:
    """Craft the strongest attack twice on a few images, each time on a graph of its own."""
    rows = np.arange(min(REPEATED_IMAGES, len(target.truth)))
    first, second = (
        craft_on(
            target, strongest.attack, _graph(strongest.plan, strongest.attack, config), rows=rows, report=_silent
        ).x_adv
        for _ in range(2)
    )
    different = (first.view(np.uint32) != second.view(np.uint32)).reshape(len(rows), -1).any(axis=1)
    return Repetition(attack=strongest.name, images=len(rows), different=int(different.sum()))


def _variants(strongest: Strongest, target: Target) -> Iterator[_Variant]:
    plan, attack = strongest.plan, strongest.attack
    budget = attack.budget or Budget(epsilon=0)
    if budget.norm == "linf" and attack.name != "fgs":
        yield _Variant("one step", plan, Fgs(epsilon=budget.epsilon, objective=attack.objective))
    if attack.name != "fgs":
        yield _Variant("doubled", plan, _doubled(attack))
    ignorant = next(threat for threat in THREATS if threat.reading == "z-star")
    label = aim(_within(attack, budget.epsilon / 2), ignorant, target.guard.spec)
    if label is not None:
        yield _Variant("half", plan._replace(threat=ignorant), label)
    everything = 1.0 if budget.norm == "linf" else float(np.sqrt(target.pixels[0].size))
    yield _Variant("unbounded", plan, _within(attack, everything))
    asking = plan._replace(threat=next(threat for threat in THREATS if threat.asks))
    noise = RandomNoise(epsilon=budget.epsilon, norm=budget.norm, draws=_NOISE_DRAWS)
    yield _Variant("noise", asking, noise)
    yield _Variant("decisions", asking, Square(epsilon=budget.epsilon, norm=budget.norm, queries=_QUERIES))


def _probe(
    variant: _Variant, strongest: Strongest, target: Target, config: EvaluationConfig, progress: Progress
) -> Probe:
    victim: GradientGraph | Deployed
    if variant.attack.asks:
        victim = Deployed(target.guard, gallery=target.gallery)
    else:
        victim = _graph(variant.plan, variant.attack, config)
    report = progress(f"sanity, {variant.purpose}: {title(variant.plan, variant.attack)}")
    cell, _ = measure_cell(variant.plan, victim, variant.attack, target, report=report)
    return Probe(purpose=variant.purpose, of=strongest.name, cell=replace(cell, examples=()))


def _attack_twin(
    twin: Opened, strongest: Strongest, config: EvaluationConfig, dataset: Dataset, progress: Progress
) -> Probe:
    """Attack the undefended twin itself, which accepts everything, with the same attack aimed at labels."""
    threat = next(threat for threat in THREATS if threat.reading == "confidence")
    with Guard(twin.artifact.model, **config.running) as guard:
        target = Target.open(guard, twin, dataset, config)
        attack = aim(strongest.attack, threat, guard.spec) or strongest.attack
        return _probe(_Variant("twin", Plan(threat, twin, (attack,)), attack), strongest, target, config, progress)


def _graph(plan: Plan, attack: Attack[Any], config: EvaluationConfig) -> GradientGraph:
    return GradientGraph(plan.source.artifact.model, of=attack.reads, **config.running)


def _doubled(attack: LossAttack) -> LossAttack:
    known = {field.name for field in fields(attack)}
    return replace(attack, **{name: 2 * getattr(attack, name) for name in ("steps", "restarts") if name in known})


def _within(attack: LossAttack, epsilon: float) -> LossAttack:
    """Return an attack with another radius, its steps as long as that asks for."""
    known = {field.name for field in fields(attack)}
    changed: dict[str, Any] = {"epsilon": epsilon, "step_size": None}
    return replace(attack, **{name: value for name, value in changed.items() if name in known})


def _silent(done: int, total: int) -> None:
    pass
