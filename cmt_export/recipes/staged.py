"""Recipes that need another network trained before their own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from cmt_export.recipes.recipe import Recipe, Stage


@dataclass(frozen=True, kw_only=True)
class StagedRecipe(Recipe):
    """A recipe whose network begins with what an earlier one has learnt."""

    @property
    @abstractmethod
    def first_stage(self) -> Stage:
        """What is trained before, and given to `adopt`."""

    @abstractmethod
    def adopt(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        """Put the weights of the first stage into a fresh network.

        Args:
            network: What `build` returned.
            weights: The state of the trained network of the first stage.
        """
