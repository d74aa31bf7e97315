"""Attacks on an exported file, in numpy on a `GradientGraph`; `attack` describes how all of them are called."""

from calibration.attacks.attack import AttackResult
from calibration.attacks.fgs import FgsConfig, fgs
from calibration.attacks.igs import IgsConfig, igs
from calibration.attacks.pgd import PgdConfig, pgd

__all__ = ["AttackResult", "FgsConfig", "IgsConfig", "PgdConfig", "fgs", "igs", "pgd"]
