"""`distillation`: a student that learns the soft answers of a teacher, both at a high temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmt_export.networks import Logits, Shape, TrunkFactory, build_network
from cmt_export.recipes.recipe import Batch, Stage, option
from cmt_export.recipes.staged import StagedRecipe
from cmt_export.recipes.undefended import Undefended


class Distilled(nn.Module):
    """A student, and the teacher it learns from; the student alone answers, and is exported."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        """Put both together; the teacher is trained no further."""
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Logits:
        """Classify pixels, float32 ``(N, C, H, W)`` in [0, 1]."""
        outputs: Logits = self.student(pixels)
        return outputs

    def train(self, mode: bool = True) -> Self:
        """Switch the student's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self


@dataclass(frozen=True, kw_only=True)
class Distillation(StagedRecipe):
    """A single head, trained on softmax(Z_teacher / T) with Z / T, and deployed at temperature 1.

    The deployed logits are about T times larger than usual. Their softmax is all but one-hot, and its gradient
    underflows: attacks on cross-entropy fail for want of a gradient, which is no robustness (Carlini and Wagner 2016,
    arXiv 1607.04311). Attack it through its logits.

    The teacher is the recipe `none` on the same trunk, trained first with the same temperature; its weights lie in the
    checkpoint beside the student's.

    Attributes:
        temperature: T, of teacher and student, at least 1.

    Source: Papernot et al. 2016 (arXiv 1511.04508), section IV; it tries temperatures from 1 to 100. That 20 is the one
        of its main experiments could not be checked here.
    """

    name: ClassVar[str] = "distillation"
    source: ClassVar[str] = "Papernot et al. 2016"

    temperature: float = option(20.0, "What logits are divided by in the loss; the deployed network is at 1.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(1 <= self.temperature <= 1000, "temperature in [1, 1000]", self.temperature)

    @property
    def first_stage(self) -> Stage:
        """The teacher."""
        return Stage("teacher", Undefended(temperature=self.temperature))

    def build(self, factory: TrunkFactory, *, input_shape: Shape, classes: int) -> nn.Module:
        """Build student and teacher on fresh trunks."""
        student, teacher = (
            build_network(factory, input_shape=input_shape, classes=classes, dual=False) for _ in range(2)
        )
        return Distilled(student, teacher)

    def adopt(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        """Give the network its trained teacher."""
        assert isinstance(network, Distilled)  # what `build` returns
        network.teacher.load_state_dict(weights)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return −Σ_k softmax(Z_teacher(x) / T)_k · log softmax(Z(x) / T)_k, the mean over the batch."""
        assert isinstance(network, Distilled)  # what `build` returns
        with torch.no_grad():
            taught: Logits = network.teacher(batch.pixels)
        learnt: Logits = network(batch.pixels)
        soft_labels = F.softmax(taught.logits.float() / self.temperature, 1)
        return F.cross_entropy(learnt.logits.float() / self.temperature, soft_labels)
