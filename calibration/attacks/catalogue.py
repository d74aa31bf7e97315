"""Every attack by its name, and grids of them: each attack with each strength that was asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from calibration.attacks.apgd import Apgd
from calibration.attacks.attack import Attack
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.deepfool import DeepFool
from calibration.attacks.fgs import Fgs
from calibration.attacks.hopskipjump import HopSkipJump
from calibration.attacks.igs import Igs
from calibration.attacks.jsma import Jsma
from calibration.attacks.pgd import Pgd
from calibration.attacks.random_noise import RandomNoise
from calibration.attacks.square import Square
from runtime.errors import UsageError

_KINDS: tuple[type[Attack[Any]], ...] = (
    Fgs,
    Igs,
    Pgd,
    Apgd,
    DeepFool,
    CarliniWagner,
    Jsma,
    Square,
    HopSkipJump,
    RandomNoise,
)

ATTACKS: Mapping[str, type[Attack[Any]]] = {kind.name: kind for kind in _KINDS}
"""Every attack by its name."""


EPSILONS = (0.1, 0.3)
"""Budgets where none are named: what the paper draws its training examples from, and the field's bound for MNIST."""


def grid(names: Sequence[str], options: Mapping[str, Sequence[Any]]) -> tuple[Attack[Any], ...]:
    """Return attacks, each once for every combination of the values of the options that it has.

    Args:
        names: Which attacks; keys of `ATTACKS`.
        options: Values to try of each hyper-parameter; none leaves it at its default, which for a
            budget that an attack cannot do without is `EPSILONS`.

    Raises:
        UsageError: A value is out of range, no attack has an option, or the ε of one is in another norm.
    """
    known = _options(names)
    given = {option: tuple(dict.fromkeys(values)) for option, values in options.items() if values}
    for option in given:
        if not any(option in each for each in known.values()):
            name = option.replace("_", "-")
            raise UsageError(f"--{name}: expected an attack that has it, got {', '.join(names)}; leave it out")
    for norm in given.get("norm", ()):
        kept = measured_in(norm, names)
        others = ",".join(name for name in names if name not in kept)
        if others:
            raise UsageError(f"-a {others}: expected attacks whose ε --norm {norm} can measure, got linf; leave it out")
    return tuple(attack for name in names for attack in _variants(ATTACKS[name], given))


def measured_in(norm: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of some attacks whose ε, where they have one, a norm can measure; the ε of others is L-infinity."""
    known = _options(names)
    return tuple(name for name in names if norm == "linf" or "norm" in known[name] or "epsilon" not in known[name])


def _options(names: Sequence[str]) -> dict[str, set[str]]:
    return {name: {field.name for field in fields(ATTACKS[name])} for name in names}


def _variants(kind: Any, given: Mapping[str, Sequence[Any]]) -> Iterator[Attack[Any]]:
    own = {option.name: given[option.name] for option in fields(kind) if option.name in given}
    if any(option.name == "epsilon" and option.default is MISSING for option in fields(kind)):
        own = {"epsilon": EPSILONS, **own}
    for values in itertools.product(*own.values()):
        yield kind(**dict(zip(own, values, strict=True)))
