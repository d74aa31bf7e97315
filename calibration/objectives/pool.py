"""What an attacker ascends who knows every member of a pool, and not which of them will answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from calibration.graphs.tape import Tape
from calibration.objectives.margin import MarginObjective
from calibration.objectives.objective import Objective
from runtime.errors import UsageError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Tensor = TypeVar("Tensor")


def member_tensor(number: int, name: str) -> str:
    """Return what a tensor of one member is called where all of them are one graph."""
    return f"member{number}/{name}"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """The mean of the members' objectives: ``E_m[f_m(x)]`` for a member m drawn uniformly.

    The gradient of an expectation is the expectation of the gradient, and the members can be counted: nothing is
    sampled. Each member brings an objective of its own, with its own Classmap and threshold.

    Attributes:
        members: The objective of each member, at least two, all with the same inputs.
        only: The number of the one member that is attacked, whatever the others say; None takes the mean of all.

    Raises:
        UsageError: There are fewer than two, their inputs differ, or there is no such member.

    Source: Athalye et al. 2018 (Obfuscated gradients), section 4, expectation over transformation, for a distribution
        over networks in place of transformations.
    """

    members: tuple[Objective, ...]
    only: int | None = None

    def __post_init__(self) -> None:
        """Check the members."""
        if len(self.members) < 2 or len({one.inputs for one in self.members}) != 1:
            raise UsageError(f"expected two or more objectives with the same inputs, got {self.members}")
        if self.only is not None and self.only not in range(len(self.members)):
            raise UsageError(f"expected the number of a member below {len(self.members)}, got {self.only}")

    @property
    def attacked(self) -> tuple[int, ...]:
        """Numbers of the members that are attacked."""
        return tuple(range(len(self.members))) if self.only is None else (self.only,)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the tensors it reads."""
        return tuple(member_tensor(number, name) for number in self.attacked for name in self.members[number].reads)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return self.members[0].inputs

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``."""
        losses = [
            self.members[number].append(tape, _own(number, self.members[number], logits), classes)
            for number in self.attacked
        ]
        total = losses[0]
        for loss in losses[1:]:
            total = tape.op("Add", total, loss)
        return tape.op("Mul", total, tape.constant(1 / len(losses)))


@dataclass(frozen=True, kw_only=True)
class ExpectedMargin(Expectation):
    """The same for margins: attacks go along the mean, and have succeeded where the least margin is above 0.

    There every member that is attacked is fooled, whoever answers.

    Attributes:
        members: The margin of each member, at least two, all with the same inputs.
        only: As for `Expectation`.
    """

    members: tuple[MarginObjective, ...]

    def margin(self, logits: Mapping[str, FloatArray], classes: Mapping[str, IntArray]) -> FloatArray:
        """Return the least margin of a member, ``(n,)``."""
        found = [
            self.members[number].margin(_own(number, self.members[number], logits), classes) for number in self.attacked
        ]
        least: FloatArray = np.min(found, axis=0)
        return least

    def guide(self, confidence: float) -> Objective:
        """Return the mean of what leads to a margin of `confidence` for each member."""
        return Expectation(members=tuple(one.guide(confidence) for one in self.members), only=self.only)


def _own(number: int, objective: Objective, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[member_tensor(number, name)] for name in objective.reads}
