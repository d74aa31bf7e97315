"""What objectives read off rows of logits, ``(N, K)``, as nodes: the element of a label, the largest of the others."""

from __future__ import annotations

from calibration.graphs.tape import Tape

HIDDEN = -1e30
"""Far below every logit, yet finite: infinity times a zero cotangent would be NaN."""


def own_of(tape: Tape, rows: str, chosen: str) -> str:
    """Append the element of each row ``(N, K)`` that a one-hot row chooses, ``(N,)``."""
    return tape.op("ReduceSum", tape.op("Mul", rows, chosen), tape.ints(1), keepdims=0)


def largest_but(tape: Tape, rows: str, chosen: str) -> str:
    """Append the largest element of each row ``(N, K)`` but the one that a one-hot row chooses, ``(N,)``."""
    return tape.op("ReduceMax", _without(tape, rows, chosen), tape.ints(1), keepdims=0)


def soft_largest_but(tape: Tape, rows: str, chosen: str) -> str:
    """Append the soft maximum of each row ``(N, K)`` without the element that a one-hot row chooses, ``(N,)``."""
    return tape.op("ReduceLogSumExp", _without(tape, rows, chosen), tape.ints(1), keepdims=0)


def _without(tape: Tape, rows: str, chosen: str) -> str:
    return tape.op("Add", rows, tape.op("Mul", chosen, tape.constant(HIDDEN)))
