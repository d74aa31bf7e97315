"""What an adversarial set is made for: which objective its attacker ascends, and which labels it is told to reach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from calibration.attacks import Attack
from calibration.attacks.attack import LossAttack
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.objectives.margin import Margin, PairMargin
from calibration.objectives.rule import WrongConfidence
from calibration.threats import aim_by_equation_10
from runtime.spec import GuardSpec

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

Goal = Literal["label", "pair", "eq-10"]
"""``label``: another label, by somebody who knows of no rule; ``pair``: another label that the rule accepts; ``eq-10``:
the sum of both heads' losses, Equation 10 with Equation 4 for each."""

Targets = Literal["none", "random", "likeliest", "partner"]
"""Labels to reach: none; a random wrong one; the wrong one that the file under attack finds likeliest; the robust
class M[y]."""


def aimed(attack: Attack[Any], goal: Goal, *, targeted: bool, kappa: float | None, spec: GuardSpec) -> Attack[Any]:
    """Return an attack with the objective of a goal.

    Args:
        attack: With its own default objective.
        goal: What for; against a single head ``pair`` and ``eq-10`` are ``label``.
        targeted: Whether it is told targets.
        kappa: κ of C&W; None for every other attack.
        spec: Of the file that is differentiated.
    """
    if isinstance(attack, CarliniWagner):
        confidence = 0.0 if kappa is None else kappa
        if goal == "eq-10" and spec.classmap is not None:
            return aim_by_equation_10(replace(attack, confidence=confidence), spec.classmap)
        if goal == "pair" and spec.classmap is not None:
            pair = PairMargin(classmap=spec.classmap, threshold=spec.threshold, targeted=targeted)
            return replace(attack, objective=pair, confidence=confidence)
        return replace(attack, objective=Margin(targeted=targeted), confidence=confidence)
    if goal == "pair" and spec.classmap is not None and isinstance(attack, LossAttack):
        return replace(attack, objective=WrongConfidence(classmap=spec.classmap))
    return attack


def choose_targets(
    kind: Targets, logits: FloatArray, labels: IntArray, *, classmap: tuple[int, ...] | None, rows: IntArray, seed: int
) -> IntArray | None:
    """Return the label that each image is to reach, ``(n,)``; None where the attack chooses.

    Args:
        kind: Which.
        logits: Of the file under attack on the images, ``(n, K)``.
        labels: True labels, ``(n,)``.
        classmap: M, for ``partner``.
        rows: Where the images lie in the test split, ``(n,)``: a random target depends on its image alone.
        seed: Of random targets.
    """
    classes = logits.shape[1]
    if kind == "none":
        return None
    if kind == "partner":
        assert classmap is not None  # a set with this aim names the file whose Classmap it takes
        return np.array(classmap)[labels]
    if kind == "likeliest":
        others = logits.copy()
        others[np.arange(len(labels)), labels] = -np.inf
        return np.asarray(others.argmax(axis=1))
    steps = [int(np.random.default_rng([seed, int(row)]).integers(1, classes)) for row in rows]
    return np.asarray((labels + np.array(steps)) % classes)
