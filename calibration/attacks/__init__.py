"""Attacks on an exported file, in numpy on a `GradientGraph`, or on a guard as it is deployed.

`attack` describes how all of them are called, `catalogue` lists them.
"""

from calibration.attacks.attack import Attack, AttackResult
from calibration.attacks.deployed import Deployed, Gallery
from calibration.attacks.fgs import Fgs
from calibration.attacks.igs import Igs
from calibration.attacks.norms import Budget
from calibration.attacks.pgd import Pgd

__all__ = ["Attack", "AttackResult", "Budget", "Deployed", "Fgs", "Gallery", "Igs", "Pgd"]
