"""What an attacker who knows in-graph detectors ascends: a wrong label, with every detector quiet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from calibration.graphs.tape import Tape
from calibration.objectives.rule import LargestConfidence, TargetConfidence
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class QuietConfidence:
    """The logarithm of the confidence in a wrong label, less what detectors read beyond their limits.

    ``log max_{t != y} p(t) − λ · Σ_d max(a_d − m, 0)``, or with the confidence of `targets` in the first term. The a_d
    are what detectors read as shares of their limits (`anomalies`): the rule accepts at most 1, and m is a little less.
    The first term is bounded by 0, so that it cannot pay for a loud detector for long.

    Attributes:
        targeted: Whether to reach `targets` instead of any label but `labels`.
        penalty: λ, above 0.
        limit: m, in (0, 1].

    Raises:
        UsageError: A value is out of range.

    Source: Carlini & Wagner 2017 ("MagNet and Efficient Defenses against Adversarial Attacks are Not Robust") for a
        detector in the objective; the penalty as in an exterior penalty method.
    """

    targeted: bool = False
    penalty: float = 10.0
    limit: float = 0.95

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.penalty > 0 or not 0 < self.limit <= 1:
            raise UsageError(f"expected penalty > 0 and limit in (0, 1], got {self.penalty} and {self.limit}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the tensors it reads."""
        return ("logits", "anomalies")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return ("targets",) if self.targeted else ("labels",)

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        sought = TargetConfidence(classmap=None) if self.targeted else LargestConfidence()
        confidence = sought.append(tape, logits, classes)
        beyond = tape.op("Relu", tape.op("Sub", logits["anomalies"], tape.constant(self.limit)))
        loud = tape.op("ReduceSum", beyond, tape.ints(1), keepdims=0)
        return tape.op("Sub", confidence, tape.op("Mul", loud, tape.constant(self.penalty)))
