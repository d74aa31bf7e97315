"""Recipes with two heads: what they share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from calibration.classmap import Epsilon
from cmt_export.lock import Lock
from cmt_export.networks import Shape, TrunkFactory, build_network
from cmt_export.recipes.recipe import Recipe, option
from runtime.spec import Rule


@dataclass(frozen=True, kw_only=True)
class PairRecipe(Recipe):
    """A recipe whose file accepts only where Z' names the partner of the label of Z*.

    Attributes:
        lock: How Z' enters Z*: ``trained``, ``frozen``, ``additive``, ``gated`` or ``none``.
        lock_width: Hidden units of g.
    """

    rule: ClassVar[Rule] = "pair"

    lock: Lock = option("trained", "How Z' enters Z*: the gradient lock, or another in its place.")  # noqa: RUF009
    lock_width: int = option(64, "Hidden units of g.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(self.lock_width >= 1, "lock_width >= 1", self.lock_width)

    @property
    @abstractmethod
    def classmap_steps(self) -> tuple[float, Epsilon]:
        """Largest FGS step that the Classmap is estimated with, and how steps are drawn."""

    def build(self, factory: TrunkFactory, *, input_shape: Shape, classes: int) -> nn.Module:
        """Build two heads and the lock on a fresh trunk."""
        return build_network(
            factory,
            input_shape=input_shape,
            classes=classes,
            dual=True,
            lock=self.lock,
            lock_width=self.lock_width,
        )
