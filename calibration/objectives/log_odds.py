"""Log-odds: margins whose maxima are soft, so that their gradients point the way from far off.

A margin follows one competing logit, and one head, at a time; its gradient jumps wherever another takes the lead, and
an attack that trusts it zigzags. The log-odds of a label weigh all competitors at once and have the same sign up to a
logarithm. Attacks decide by the margin and go along these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from calibration.graphs.tape import Tape
from calibration.objectives.rows import HIDDEN, largest_but, own_of, soft_largest_but
from calibration.objectives.rule import Classmap


@dataclass(frozen=True, kw_only=True)
class LogOdds:
    """Log-odds of one head: ``log Σ_{j != y} exp z_j - z_y``, or, targeted, ``z_t - log Σ_{j != t} exp z_j``.

    Unlike a cross-entropy it does not fade on either side of the decision, however far.

    Attributes:
        of: The logits tensor.
        targeted: Whether to reach `targets` instead of leaving `labels`.

    Source: ``log p / (1 - p)`` with p = softmax(z), written without 1 - p, which float32 rounds to zero.
    """

    of: str = "logits"
    targeted: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return (self.of,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("targets",) if self.targeted else ("labels",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        z, chosen = logits[self.of], tape.input(self.inputs[0], tape.batch, classes)
        own, others = own_of(tape, z, chosen), soft_largest_but(tape, z, chosen)
        return tape.op("Sub", own, others) if self.targeted else tape.op("Sub", others, own)


@dataclass(frozen=True, kw_only=True)
class PairLogOdds:
    """What the rule that pairs two heads lacks for a label, softly: ``-Σ_heads softplus(κ - log-odds)``.

    For a label t the log-odds are those of t in z* and of M[t] in z'. Targeted it is that of `targets`, else the log of
    the sum of its exponentials over all wrong labels; for a single head the largest, for `LargestConfidence` says why.
    A head that has κ to spare fades, one that lags behind does not.
    At κ = 0 it is the logarithm of the confidence that `WrongConfidence` and `TargetConfidence` ascend, logits as they
    are, but its derivatives stay exact where a head is sure of the wrong label, which large κ ask for.

    Attributes:
        classmap: M of the file under attack, or None for a single head.
        confidence: κ, the log-odds that each head is asked for.
        targeted: Whether to reach `targets` instead of leaving `labels`.
        logits: The tensor that plays z*.

    Source: equation 4 of the paper for each head, its cut-off at κ made soft; equation 10 for their sum.
    """

    classmap: Classmap
    confidence: float = 0.0
    targeted: bool = False
    logits: str = "logits"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return (self.logits,) if self.classmap is None else (self.logits, "robust_logits")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("targets",) if self.targeted else ("labels",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        lacking = self._lacking(tape, logits[self.logits], classes)
        if self.classmap is not None:
            robust = self._lacking(tape, logits["robust_logits"], classes)
            lacking = tape.op("Add", lacking, tape.op("Gather", robust, tape.ints(*self.classmap), axis=1))
        value = tape.op("Neg", lacking)
        chosen = tape.input(self.inputs[0], tape.batch, classes)
        if self.targeted:
            return own_of(tape, value, chosen)
        joined = largest_but if self.classmap is None else soft_largest_but
        return joined(tape, value, chosen)

    def _lacking(self, tape: Tape, z: str, classes: int) -> str:
        """Append ``softplus(κ - log-odds)`` of every class, ``(N, K)``."""
        odds = _log_odds(tape, z, classes)
        return tape.op("Softplus", tape.op("Sub", tape.constant(self.confidence), odds))


def _log_odds(tape: Tape, z: str, classes: int) -> str:
    """Append ``z_t - log Σ_{j != t} exp z_j`` of every class t, ``(N, K)``.

    For the largest logit the sum over the others is taken as it stands. Any other class has a share p of at most one
    half, so that there ``log p - log(1 - p)`` loses nothing.
    """
    axis = tape.ints(1)
    top = tape.op("Equal", tape.op("ArgMax", z, axis=1, keepdims=1), tape.ints(*range(classes)))
    others = tape.op("ReduceLogSumExp", tape.op("Where", top, tape.constant(HIDDEN), z), axis, keepdims=1)
    log_share = tape.op("LogSoftmax", z, axis=1)
    share = tape.op("Where", top, tape.constant(0.0), tape.op("Exp", log_share))
    rest = tape.op("Log", tape.op("Sub", tape.constant(1.0), share))
    return tape.op("Where", top, tape.op("Sub", z, others), tape.op("Sub", log_share, rest))
