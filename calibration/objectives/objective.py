"""What an attack ascends: per-sample losses, written as ONNX nodes behind the logits.

An objective is a frozen dataclass, so that it can be a key and be written into a results file. It names its inputs with
the words attacks use (``labels``, ``targets``), which arrive as one-hot float32 rows ``(N, K)``, and is differentiated
by the same rules as the network. Objectives know nothing of attacks, budgets or reject rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from calibration.graphs.tape import Tape
from calibration.objectives.rows import own_of, soft_largest_but
from runtime.errors import UsageError

FloatArray = npt.NDArray[np.float32]


class Objective(Protocol):
    """A per-sample loss to ascend."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the logits tensors it reads."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs, in the order `append` takes them."""

    def __hash__(self) -> int:
        """Serve as the key of its session."""

    def append(self, tape: Tape, logits: Mapping[str, str], classes: int) -> str:
        """Append its nodes and return the name of the loss ``(N,)``.

        Args:
            tape: The tape that holds the network.
            logits: The tensor of each name in `reads`.
            classes: K.
        """


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy of one head: of the true labels, or, targeted, minus that of the target labels.

    It is written as softplus(logsumexp over j != y of z_j, minus z_y), which equals -log softmax(z)_y. The derivative
    with respect to z_y is then a product of probabilities instead of p_y - 1, which float32 rounds away on confident
    networks: that rounding would look like gradient masking.

    Attributes:
        of: The logits tensor.
        targeted: Whether to descend towards `targets` instead of ascending from `labels`.

    Source: Goodfellow et al. 2015, section 4; Kurakin et al. 2017, equation 2 and "least likely class" for the targeted
        sign.
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
        z = logits[self.of]
        chosen = tape.input(self.inputs[0], tape.batch, classes)
        own, others = own_of(tape, z, chosen), soft_largest_but(tape, z, chosen)
        loss = tape.op("Softplus", tape.op("Sub", others, own))
        return tape.op("Neg", loss) if self.targeted else loss


CROSS_ENTROPY = CrossEntropy()
"""What attacks ascend unless told otherwise: the cross-entropy of the true labels through `logits`."""


def one_hot(labels: npt.ArrayLike, classes: int) -> FloatArray:
    """Return one-hot rows ``(N, K)`` of integer labels ``(N,)``.

    Args:
        labels: Integers in [0, K).
        classes: K.

    Raises:
        UsageError: The labels are not a vector of integers in range.
    """
    indices = np.asarray(labels)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise UsageError(f"expected labels as integers (N,), got {indices.dtype} {indices.shape}")
    if indices.size and not (indices.min() >= 0 and indices.max() < classes):
        raise UsageError(f"expected labels in [0, {classes}), got {indices.min()} to {indices.max()}")
    rows = np.zeros((len(indices), classes), dtype=np.float32)
    rows[np.arange(len(indices)), indices] = 1.0
    return rows
