"""What each attacker sees: which file, which of its logits, and whether the reject rule is part of the target.

A threat is data. `evaluation` crafts what it says and judges the outcome by the shipped rule, whatever the attacker
knew: an attack succeeds on an image when the guard accepts a wrong label within the budget. Attacks know nothing of
threats.

Source: section 2.2 of the paper; its one "grey-box" is read in three ways, all of which are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calibration.objectives import CROSS_ENTROPY, Objective
from calibration.objectives_rule import Classmap, WrongConfidence
from runtime.errors import UsageError

Role = Literal["guard", "unlocked", "twin", "substitute"]


def _label(classmap: Classmap) -> Objective:
    """Return what an attacker ascends who knows of no rule: any wrong label."""
    del classmap
    return CROSS_ENTROPY


def _verdict(classmap: Classmap) -> Objective:
    """Return what an attacker ascends who knows the rule: any wrong label that is accepted."""
    return WrongConfidence(classmap=classmap)


@dataclass(frozen=True, kw_only=True)
class Threat:
    """One reading of one attacker.

    Attributes:
        name: The name it is asked for by.
        reading: Which reading of that name.
        knows: What the attacker has, in one sentence.
        role: The file that is differentiated.
        objective: What is ascended on it, given the Classmap of the guard; the tensors it reads are differentiated.
        rule: The rule the guard must have for this reading; None where any will do.
        adaptive: Whether the reject rule is part of the objective.
        strength: Order of the threats, higher is stronger; adaptive ones stand before all others whatever it is.
    """

    name: str
    reading: str
    knows: str
    role: Role
    objective: Callable[[Classmap], Objective]
    rule: str | None = None
    adaptive: bool = False
    strength: int


THREATS = (
    Threat(
        name="nearly-white-box",
        reading="pair",
        knows="The guard itself, both heads, the Classmap and the rule: every image must say t and M[t] at once.",
        role="guard",
        objective=_verdict,
        rule="pair",
        adaptive=True,
        strength=40,
    ),
    Threat(
        name="nearly-white-box",
        reading="confidence",
        knows="The guard itself and the rule of its single head: every image must be confidently wrong.",
        role="guard",
        objective=_verdict,
        rule="confidence",
        adaptive=True,
        strength=39,
    ),
    Threat(
        name="grey-box",
        reading="z-star",
        knows="The guard itself, its logits Z*; not that a rule rejects.",
        role="guard",
        objective=_label,
        strength=30,
    ),
    Threat(
        name="grey-box",
        reading="z",
        knows="The defended network trained without the gradient lock, its logits Z; not that a rule rejects.",
        role="unlocked",
        objective=_label,
        strength=25,
    ),
    Threat(
        name="grey-box",
        reading="oracle",
        knows="The undefended network; nothing of the defence.",
        role="twin",
        objective=_label,
        strength=20,
    ),
    Threat(
        name="black-box",
        reading="substitute",
        knows="A network of another architecture trained on the same data.",
        role="substitute",
        objective=_label,
        strength=10,
    ),
)
"""Every threat, strongest first."""

NAMES = tuple(dict.fromkeys(threat.name for threat in THREATS))

DEFAULT_NAMES = ("nearly-white-box", "grey-box")
"""What is evaluated unless told otherwise: never without an attacker who knows the rule."""


def choose_threats(names: Sequence[str], files: Mapping[Role, Path], *, rule: str) -> tuple[Threat, ...]:
    """Return the readings to evaluate, strongest first.

    Every reading of a name is taken that fits the rule and whose file is there; the guard itself always is. Of a guard
    without a lock, ``z-star`` is the reading ``z`` too.

    Args:
        names: Threats asked for.
        files: The files beside the guard that were given, by role.
        rule: The rule of the guard.

    Raises:
        UsageError: A name is unknown, does not fit the rule, or has no file, or a file was given that no named threat
            uses.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise UsageError(f"--threat: expected {' or '.join(NAMES)}, got {', '.join(unknown) or 'none'}")
    asked = [threat for threat in THREATS if threat.name in names]
    unused = [role for role in files if role not in {threat.role for threat in asked}]
    if unused:
        needed = next(threat.name for threat in THREATS if threat.role == unused[0])
        raise UsageError(f"--{unused[0]}: expected --threat {needed} beside it, got {', '.join(names)}; add it")
    fitting = [threat for threat in asked if threat.rule in (None, rule)]
    chosen = tuple(threat for threat in fitting if threat.role == "guard" or threat.role in files)
    for name in names:
        if name not in {threat.name for threat in fitting}:
            rules = " or ".join(threat.rule for threat in asked if threat.name == name and threat.rule)
            raise UsageError(f"--threat {name}: expected a guard with the rule {rules}, got {rule}; leave it out")
        if name not in {threat.name for threat in chosen}:
            role = next(threat.role for threat in fitting if threat.name == name)
            raise UsageError(
                f"--threat {name}: expected --{role} FILE.onnx, got none; see `cmt train --network`, `cmt export`"
            )
    return chosen
