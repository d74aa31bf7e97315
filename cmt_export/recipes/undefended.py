"""`none`: a classifier without any defence, which every defence is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from cmt_export.networks import Logits
from cmt_export.recipes.recipe import Batch, Recipe, option


@dataclass(frozen=True, kw_only=True)
class Undefended(Recipe):
    """A single head, trained with cross-entropy.

    Attributes:
        temperature: What the logits are divided by in the loss, at least 1; above 1 it makes a teacher for
            `distillation`.
    """

    name: ClassVar[str] = "none"
    source: ClassVar[str] = "cross-entropy"

    temperature: float = option(1.0, "What logits are divided by in the loss; the deployed network is at 1.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(1 <= self.temperature <= 1000, "temperature in [1, 1000]", self.temperature)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return CE(Z(x) / T, y)."""
        outputs: Logits = network(batch.pixels)
        return F.cross_entropy(outputs.logits.float() / self.temperature, batch.labels)
