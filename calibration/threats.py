"""What each attacker sees: which file, which of its logits, and whether the reject rule is part of the target.

A threat is data. `evaluation` crafts what it says and judges the outcome by the shipped rule, whatever the attacker
knew: an attack succeeds on an image when the guard accepts a wrong label within the budget. Attacks know nothing of
threats; `aim` points one at what a threat allows it to know.

Source: section 2.2 of the paper; its one "grey-box" is read in three ways, all of which are reported.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from calibration.attacks import Attack
from calibration.attacks.attack import LossAttack
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.objectives import CrossEntropy, Objective
from calibration.objectives.detector import QuietConfidence
from calibration.objectives.margin import Margin, MarginObjective, PairMargin, SummedMargins
from calibration.objectives.pool import Expectation, ExpectedMargin
from calibration.objectives.rule import LargestConfidence, TargetConfidence, WrongConfidence
from runtime.errors import UsageError
from runtime.spec import GuardSpec

Role = Literal["guard", "unlocked", "twin", "substitute"]
Goal = Literal["label", "verdict", "eq-10"]


@dataclass(frozen=True, kw_only=True)
class Threat:
    """One reading of one attacker.

    Attributes:
        name: The name it is asked for by.
        reading: Which reading of that name.
        knows: What the attacker has, in one sentence.
        role: The file that is differentiated, or asked.
        goal: ``label``: any wrong label, by an attacker who knows of no rule; ``verdict``: any wrong label that the
            rule accepts; ``eq-10``: the sum of both heads' losses that the paper attacks with.
        logits: The tensor that plays Z*.
        asks: Whether the attacker sees decisions only.
        rule: The rule the guard must have for this reading, ``pool`` for several guards of which one answers; None
            where any will do.
        locked: Whether the guard must have a gradient lock for this reading.
        adaptive: Whether the reject rule is part of the objective.
        rehearsed: Whether the attacker takes the rule of a file of his own for that of the guard.
        alone: Whether each member of a pool is attacked by itself.
        strength: Order of the threats, higher is stronger; adaptive ones stand before all others whatever it is.
    """

    name: str
    reading: str
    knows: str
    role: Role
    goal: Goal = "label"
    logits: str = "logits"
    asks: bool = False
    rule: str | None = None
    locked: bool = False
    adaptive: bool = False
    rehearsed: bool = False
    alone: bool = False
    strength: int


POOL = "pool"
"""What stands for the rule where several guards stand behind one face."""

THREATS = (
    Threat(
        name="nearly-white-box",
        reading="pair",
        knows="The guard itself, both heads, the Classmap and the rule: every image must say t and M[t] at once.",
        role="guard",
        goal="verdict",
        rule="pair",
        adaptive=True,
        strength=40,
    ),
    Threat(
        name="nearly-white-box",
        reading="confidence",
        knows="The guard itself and the rule of its single head: every image must be confidently wrong.",
        role="guard",
        goal="verdict",
        rule="confidence",
        adaptive=True,
        strength=39,
    ),
    Threat(
        name="nearly-white-box",
        reading="detector",
        knows="The guard itself and its detectors: every image must be confidently wrong with all of them quiet.",
        role="guard",
        goal="verdict",
        rule="detector",
        adaptive=True,
        strength=38,
    ),
    Threat(
        name="nearly-white-box",
        reading="pool",
        knows="Every member of the pool and its rule, not which of them will answer: the mean over all of them.",
        role="guard",
        goal="verdict",
        rule=POOL,
        adaptive=True,
        strength=37,
    ),
    Threat(
        name="nearly-white-box",
        reading="member",
        knows="The same; gives up all members but one, and is drawn against it or not.",
        role="guard",
        goal="verdict",
        rule=POOL,
        adaptive=True,
        alone=True,
        strength=36,
    ),
    Threat(
        name="pre-lock",
        reading="pair",
        knows="The same, with gradients from before the gradient lock: finds more where the lock hides gradients.",
        role="guard",
        goal="verdict",
        logits="unlocked_logits",
        rule="pair",
        locked=True,
        adaptive=True,
        strength=35,
    ),
    Threat(
        name="eq-10",
        reading="pair",
        knows="The guard itself; adds up the losses of both heads as the paper does: one can pay for the other.",
        role="guard",
        goal="eq-10",
        rule="pair",
        adaptive=True,
        strength=34,
    ),
    Threat(
        name="decision-only",
        reading="deployed",
        knows="Nothing but the verdicts of the guard on 8-bit images: label, acceptance and confidence.",
        role="guard",
        goal="verdict",
        asks=True,
        adaptive=True,
        strength=33,
    ),
    Threat(
        name="grey-box",
        reading="z-star",
        knows="The guard itself, its logits Z*; not that a rule rejects.",
        role="guard",
        strength=30,
    ),
    Threat(
        name="grey-box",
        reading="z",
        knows="The defended network trained without the gradient lock, its logits Z; not that a rule rejects.",
        role="unlocked",
        strength=25,
    ),
    Threat(
        name="grey-box",
        reading="oracle",
        knows="The undefended network; nothing of the defence.",
        role="twin",
        strength=20,
    ),
    Threat(
        name="black-box",
        reading="rehearsed",
        knows="A defended file of the attacker's own, whose rule stands in for that of the guard.",
        role="substitute",
        rehearsed=True,
        strength=11,
    ),
    Threat(
        name="black-box",
        reading="substitute",
        knows="A network of another architecture trained on the same data.",
        role="substitute",
        strength=10,
    ),
)
"""Every threat, strongest first."""

NAMES = tuple(dict.fromkeys(threat.name for threat in THREATS))

DEFAULT_NAMES = ("nearly-white-box", "grey-box")
"""What is evaluated unless told otherwise: never without an attacker who knows the rule."""

_LEAST_CAP = 0.01
"""κ of Equation 10 where 0 is asked for: a loss that is cut off at 0 is reached nowhere."""


def aim(attack: Attack[Any], threat: Threat, guard: GuardSpec) -> Attack[Any] | None:
    """Return an attack pointed at what a threat knows, or None where it has no use for that.

    Args:
        attack: Which attack, with every hyper-parameter.
        threat: Whose knowledge.
        guard: The file that will judge.
    """
    if attack.asks or threat.asks:
        return attack if attack.asks and threat.asks else None
    if threat.rule == "detector" and isinstance(attack, LossAttack) and attack.needs_margin:
        return None  # a detector has no margin in logits
    if isinstance(attack, LossAttack):
        if threat.goal == "eq-10" and guard.classmap is not None:
            return aim_by_equation_10(attack, guard.classmap, logits=threat.logits)
        return replace(attack, objective=_objective(threat, guard, attack))
    return None if threat.adaptive else attack


def aim_by_equation_10(attack: LossAttack, classmap: tuple[int, ...], *, logits: str = "logits") -> LossAttack:
    """Return an attack on the sum of both heads' margins; C&W cuts each off at its κ, as Equation 4 does.

    Args:
        attack: Which attack, with every hyper-parameter.
        classmap: M of the file under attack.
        logits: The tensor that plays z*.

    Source: equations 4 and 10 of the paper.
    """
    summed = SummedMargins(classmap=classmap, logits=logits)
    if not isinstance(attack, CarliniWagner):
        return replace(attack, objective=summed)
    cap = max(attack.confidence, _LEAST_CAP)
    return replace(attack, objective=replace(summed, cap=cap), confidence=cap)


def aim_at_pool(attack: Attack[Any], threat: Threat, members: Sequence[GuardSpec]) -> tuple[Attack[Any], ...]:
    """Return an attack pointed at all members of a pool at once, or at each by itself; nothing where it has no use.

    Each member brings the objective that `aim` would give it alone; what is ascended is their mean. That may end
    between the members and fool none, so each of them is attacked without regard to the others as well.

    Args:
        attack: Which attack, with every hyper-parameter.
        threat: Whose knowledge; its file is the pool.
        members: Every file that may judge.
    """
    if attack.asks or threat.asks:
        return (attack,) if attack.asks and threat.asks else ()
    aimed = [aim(attack, _alone(spec) if threat.adaptive else threat, spec) for spec in members]
    objectives = [one.objective for one in aimed if isinstance(one, LossAttack)]
    if not isinstance(attack, LossAttack) or len(objectives) != len(members):
        return ()
    expectation = Expectation(members=tuple(map(_with_an_end, objectives)))
    if attack.needs_margin:
        margins = [one for one in objectives if isinstance(one, Margin | PairMargin)]
        expectation = ExpectedMargin(members=tuple[MarginObjective, ...](margins))
    attacked = range(len(members)) if threat.alone else (None,)
    return tuple(replace(attack, objective=replace(expectation, only=number)) for number in attacked)


def rehearse(attack: Attack[Any], source: GuardSpec) -> Attack[Any] | None:
    """Return an attack pointed at the rule of the attacker's own file, or None where it has no use for that.

    The rule of a single head without a threshold adds nothing to the loss that the reading ``substitute`` ascends.

    Args:
        attack: Which attack, with every hyper-parameter.
        source: The attacker's own file.
    """
    return None if source.rule == "confidence" and not source.threshold else aim(attack, _alone(source), source)


def _alone(guard: GuardSpec) -> Threat:
    """Return the attacker who knows one guard and its rule."""
    return next(threat for threat in THREATS if threat.name == "nearly-white-box" and threat.rule == guard.rule)


def _objective(threat: Threat, guard: GuardSpec, attack: LossAttack) -> Objective:
    margin = attack.needs_margin
    if threat.rule == "detector":
        return QuietConfidence(targeted=attack.aims)
    if threat.goal == "label":
        return Margin(of=threat.logits) if margin else CrossEntropy(of=threat.logits, targeted=attack.aims)
    if margin or guard.classmap is None:
        return PairMargin(
            classmap=guard.classmap, threshold=guard.threshold, targeted=attack.aims, logits=threat.logits
        )
    if attack.aims:
        return TargetConfidence(classmap=guard.classmap, logits=threat.logits)
    return WrongConfidence(classmap=guard.classmap, logits=threat.logits)


def _with_an_end(objective: Objective) -> Objective:
    """Return the log-confidence in place of a margin: it ends at 0, so that no member of a pool outweighs the rest."""
    if not isinstance(objective, PairMargin) or objective.classmap is not None:
        return objective
    of = objective.logits
    return TargetConfidence(classmap=None, logits=of) if objective.targeted else LargestConfidence(of=of)


def choose_threats(names: Sequence[str], roles: Collection[Role], *, rule: str, locked: bool) -> tuple[Threat, ...]:
    """Return the readings to evaluate, strongest first.

    Every reading of a name is taken that fits the guard and whose file is there; the guard itself always is. Of a guard
    without a lock, ``z-star`` is the reading ``z`` too.

    Args:
        names: Threats asked for.
        roles: What files were given beside the guard.
        rule: The rule of the guard.
        locked: Whether the guard has a gradient lock.

    Raises:
        UsageError: A name is unknown, does not fit the guard, or has no file, or a file was given that no named threat
            uses.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise UsageError(f"--threat: expected {' or '.join(NAMES)}, got {', '.join(unknown) or 'none'}")
    asked = [threat for threat in THREATS if threat.name in names]
    unused = [role for role in roles if role not in {threat.role for threat in asked}]
    if unused:
        needed = next(threat.name for threat in THREATS if threat.role == unused[0])
        raise UsageError(f"--{unused[0]}: expected --threat {needed} beside it, got {', '.join(names)}; add it")
    fitting = [threat for threat in asked if threat.rule in (None, rule) and (locked or not threat.locked)]
    chosen = tuple(threat for threat in fitting if threat.role == "guard" or threat.role in roles)
    for name in names:
        if name not in {threat.name for threat in fitting}:
            wanted = " or ".join(_wanted(threat) for threat in asked if threat.name == name)
            got = f"the rule {rule} {'with' if locked else 'without'} a lock"
            raise UsageError(f"--threat {name}: expected a guard with {wanted}, got {got}; leave it out")
        if name not in {threat.name for threat in chosen}:
            role = next(threat.role for threat in fitting if threat.name == name)
            raise UsageError(
                f"--threat {name}: expected --{role} FILE.onnx, got none; see `cmt train --network`, `cmt export`"
            )
    return chosen


def _wanted(threat: Threat) -> str:
    return f"the rule {threat.rule}" + (" and a gradient lock" if threat.locked else "")
