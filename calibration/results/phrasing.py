"""How shares, attacks and settings are put into words, the same everywhere in a report."""

from __future__ import annotations

import math
from collections.abc import Mapping

from calibration.metrics import Interval
from calibration.results.records import Cell

_GREY_LEVELS = 255
_NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
_SPACE = "\N{NO-BREAK SPACE}"
_DASH = "\N{EN DASH}\N{WORD JOINER}"
_ATTACKS = {
    "fgs": "FGS",
    "igs": "IGS",
    "deepfool": "DeepFool",
    "cw": "C&W L2",
    "jsma": "JSMA",
    "pgd": "PGD",
    "apgd": "APGD",
    "square": "Square",
    "hopskipjump": "HopSkipJump",
    "noise": "random noise",
}
PROBE_NOTES = {"doubled": " with steps and restarts doubled", "unbounded": " without a bound"}
"""What to add to the name of an attack that was run for a sanity check."""


def percent(share: float, *, digits: int = 1) -> str:
    """Return a share in [0, 1] as a percentage that never rounds something to nothing, or less than all to all.

    Args:
        share: The share.
        digits: Decimals.
    """
    return f"{_number(share, digits)}{_NARROW_SPACE}%"


def bounds(interval: Interval, *, digits: int = 1) -> str:
    """Return the 95 % interval alone, as ``39.0–45.1 %``."""
    return f"{_number(interval.low, digits)}{_DASH}{percent(interval.high, digits=digits)}"


def with_bounds(interval: Interval) -> str:
    """Return a share and its interval for a sentence: whole percent from 10 % to 90 %, one decimal outside."""
    digits = 0 if 0.1 <= interval.value <= 0.9 else 1
    return f"{percent(interval.value, digits=digits)} ({bounds(interval, digits=digits)})"


def complement(interval: Interval) -> Interval:
    """Return the share of all others with its interval."""
    return Interval(1 - interval.value, 1 - interval.high, 1 - interval.low)


def radius(norm: str | None, epsilon: float | None) -> str:
    """Return a budget, as ``ε = 0.3``, ``ε = 1.5 (L2)`` or ``any change``."""
    if epsilon is None:
        return "any change"
    suffix = f"{_SPACE}(L2)" if norm == "l2" else ""
    return f"ε{_SPACE}={_SPACE}{amount(epsilon)}{suffix}"


def amount(value: object) -> str:
    """Return a setting briefly.

    A number of grey levels becomes ``8/255``, another one gets four figures, a record is led by its name, as
    ``CrossEntropy (of = logits)``; anything else stays as it is.
    """
    if isinstance(value, Mapping):
        rest = ", ".join(f"{name} = {amount(one)}" for name, one in value.items() if name != "name")
        return f"{value.get('name', '')} ({rest})".strip()
    if isinstance(value, float):
        levels = value * _GREY_LEVELS  # infinite for the largest floats, which no attack has but an edited file may
        whole = math.isfinite(levels) and abs(levels - round(levels)) < 1e-6 and 0 < round(levels) < _GREY_LEVELS
        return f"{round(levels)}/255" if whole and value != round(value, 3) else f"{value:.4g}"
    return str(value)


def attack_name(attack: str) -> str:
    """Return an attack as the literature spells it; one that is not known keeps its own name."""
    return _ATTACKS.get(attack, attack)


def attack_with_strength(cell: Cell) -> str:
    """Return an attack and how strong it was, as ``IGS at ε = 0.3`` or ``C&W L2 at κ = 0``."""
    given, name = cell.parameters, attack_name(cell.attack)
    if "epsilon" in given:
        return f"{name} at {radius(given.get('norm'), given['epsilon'])}"
    return f"{name} at κ{_SPACE}={_SPACE}{amount(given['confidence'])}" if "confidence" in given else name


def threat_name(threat: str, reading: str) -> str:
    """Return a threat and its reading, as ``grey-box z-star``."""
    return threat if reading in ("", threat) else f"{threat} {reading}"


def cell_name(cell: Cell) -> str:
    """Return a whole row, as ``grey-box z-star IGS at ε = 0.3``."""
    return f"{threat_name(cell.threat, cell.reading)} {attack_with_strength(cell)}"


def _number(share: float, digits: int) -> str:
    step = 10.0**-digits
    shown = round(100 * share, digits)
    if share > 0 and shown <= 0:
        return f"<{_NARROW_SPACE}{step:.{digits}f}"
    if share < 1 and shown >= 100:
        return f">{_NARROW_SPACE}{100 - step:.{digits}f}"
    return f"{shown:.{digits}f}" if 0 < shown < 100 else f"{shown:.0f}"
