"""Names and shapes as messages show them."""

from __future__ import annotations

from collections.abc import Iterable


def listed(names: Iterable[str], most: int = 12) -> str:
    """Return the first names, and how many there are."""
    found = list(names)
    return ", ".join(found[:most]) + (f", … ({len(found)} in all)" if len(found) > most else "")


def by(shape: Iterable[int]) -> str:
    """Return a shape such as 28x28x1."""
    return "x".join(map(str, shape))
