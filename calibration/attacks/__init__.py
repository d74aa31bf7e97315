"""Attacks on an exported file, in numpy on a `GradientGraph`; `attack` describes how all of them are called."""

from calibration.attacks.attack import Attack, AttackResult
from calibration.attacks.fgs import Fgs
from calibration.attacks.igs import Igs
from calibration.attacks.norms import Budget
from calibration.attacks.pgd import Pgd

__all__ = ["Attack", "AttackResult", "Budget", "Fgs", "Igs", "Pgd"]
