"""What an attacker who knows the reject rule ascends: a wrong label alone is no success, it has to be accepted too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calibration.graphs.tape import Tape
from calibration.objectives.rows import largest_but, own_of, soft_largest_but

LEAST_SPREAD = 4.0
"""Least difference of a row's logits at which their softmax tells the classes apart. Below, all of them weigh in a
confidence alike, and its gradient does not lead to the nearest one."""

_TINY = 1e-15

Classmap = tuple[int, ...] | None
"""M of a file whose rule pairs two heads; None for a single head."""


@dataclass(frozen=True, kw_only=True)
class WrongConfidence:
    """The logarithm of the confidence that a rule which pairs two heads finds in all wrong labels together.

    ``log Σ_{t != y} p*(t) · p'(M[t])`` with p* = softmax(logits) and p' = softmax(robust_logits). It approaches 0
    exactly where a wrong label is accepted, whatever the threshold.

    Each head has its own normalised share in it, so that the head that lags behind has the larger derivative. A sum of
    two logit differences, as in the paper's Eq. 10, lets the easy head pay for the other one. Everything stays in
    logarithms: the shares of wrong labels underflow on confident images, and that would look like gradient masking.

    Attributes:
        classmap: M of the file under attack.
        logits: The tensor that plays z*; ``unlocked_logits`` reads it before the gradient lock.

    Source: Stutz et al. 2020 (CCAT), section 4: the attack there ascends the largest confidence of a wrong label. Here
        the confidence is that of the rule, and a sum stands for the maximum.
    """

    classmap: tuple[int, ...]
    logits: str = "logits"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return _heads(self.logits, self.classmap)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("labels",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        confidence = append_log_confidence(tape, [_sharpened(tape, logits[name]) for name in self.reads], self.classmap)
        return soft_largest_but(tape, confidence, tape.input("labels", tape.batch, classes))


@dataclass(frozen=True, kw_only=True)
class LargestConfidence:
    """The logarithm of the largest confidence of a single head in a wrong label: ``log max_{t != y} p(t)``.

    A sum would not do, as it does for two heads: ``log Σ p(t)`` is as near to 0 where wrong labels share everything
    evenly, which a threshold rejects, as where one of them has it all. Small logits are multiplied as there.

    Attributes:
        of: The logits tensor.

    Source: Stutz et al. 2020 (CCAT), section 4.
    """

    of: str = "logits"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return (self.of,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("labels",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        confidence = append_log_confidence(tape, [_sharpened(tape, logits[self.of])], None)
        return largest_but(tape, confidence, tape.input("labels", tape.batch, classes))


@dataclass(frozen=True, kw_only=True)
class TargetConfidence:
    """The logarithm of the confidence that the rule finds in one target label: ``log p*(t) + log p'(M[t])``.

    It is to a target what `WrongConfidence` is to any wrong label; with a single head it is ``log p*(t)``. Where it
    reaches the logarithm of the threshold, and each head decides for the target, the rule accepts it. Small logits are
    multiplied as there.

    Attributes:
        classmap: M of the file under attack, or None for a single head.
        logits: The tensor that plays z*; ``unlocked_logits`` reads it before the gradient lock.

    Source: as for `LargestConfidence`, for one label.
    """

    classmap: Classmap
    logits: str = "logits"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""
        return _heads(self.logits, self.classmap)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("targets",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        confidence = append_log_confidence(tape, [_sharpened(tape, logits[name]) for name in self.reads], self.classmap)
        return own_of(tape, confidence, tape.input("targets", tape.batch, classes))


def append_log_confidence(tape: Tape, heads: Sequence[str], classmap: Classmap) -> str:
    """Append the logarithm of the confidence that the rule finds in each label t, and return its name, ``(N, K)``.

    Args:
        tape: The tape that holds the network.
        heads: The logits tensors: that of a single head, or z* and z'.
        classmap: M where there are two heads, else None.
    """
    confidence = tape.op("LogSoftmax", heads[0], axis=1)
    if classmap is None:
        return confidence
    partners = tape.op("LogSoftmax", heads[1], axis=1)
    return tape.op("Add", confidence, tape.op("Gather", partners, tape.ints(*classmap), axis=1))


def _heads(logits: str, classmap: Classmap) -> tuple[str, ...]:
    return (logits,) if classmap is None else (logits, "robust_logits")


def _sharpened(tape: Tape, z: str) -> str:
    """Append logits ``(N, K)`` that differ by `LEAST_SPREAD` at least in each row: small ones are multiplied.

    No label changes.
    """
    high, low = (tape.op(kind, z, tape.ints(1), keepdims=1) for kind in ("ReduceMax", "ReduceMin"))
    spread = tape.op("Max", tape.op("Sub", high, low), tape.constant(_TINY))
    factor = tape.op("Max", tape.op("Div", tape.constant(LEAST_SPREAD), spread), tape.constant(1.0))
    return tape.op("Mul", z, factor)
