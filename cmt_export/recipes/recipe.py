"""What a recipe is: one defence as a frozen dataclass of exactly its own options.

It knows its network, the loss of a batch, what has to be trained before it, and the rule of the file it becomes. The
training loop, the checkpoint and the export know recipes only through this class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from cmt_export.networks import Shape, TrunkFactory, build_network
from runtime.errors import UsageError
from runtime.spec import Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One training step's images and everything random or scheduled about it.

    Attributes:
        pixels: float32 ``(B, C, H, W)`` in [0, 1].
        labels: int64 ``(B,)``.
        classmap: M, int64 ``(K,)``; None for a recipe that needs none.
        position: Share of the training that is done with this step, in (0, 1].
        draw: One number, uniform in (0, 1].
        generator: For every other random number, on the device of `pixels`. Like `draw` it follows from the seed, the
            epoch and the step alone, so that a resumed run repeats it.
    """

    pixels: Tensor
    labels: Tensor
    classmap: Tensor | None
    position: float
    draw: float
    generator: torch.Generator

    @property
    def partners(self) -> Tensor:
        """M[y], int64 ``(B,)``; only where there is a Classmap."""
        assert self.classmap is not None  # the training loop brings one to every recipe of the rule `pair`
        return self.classmap[self.labels]


class Stage(NamedTuple):
    """A network to train before the recipe's own.

    Attributes:
        name: What its checkpoint is called beside the recipe's own.
        recipe: How it is trained.
    """

    name: str
    recipe: Recipe


def option(default: Any, text: str) -> Any:
    """Return a dataclass field that is also an option of `cmt train`.

    Args:
        default: Its default value.
        text: Its line in ``cmt train --help``.
    """
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """A defence, or the absence of one; written whole into the checkpoint and the exported file.

    Attributes:
        name: What ``--recipe`` takes.
        rule: The rule of the exported file.
        source: Where it was published.
        averaging: Decay of the running mean of the weights that is evaluated and exported, in [0, 1); 0 keeps the last
            weights.
    """

    name: ClassVar[str]
    rule: ClassVar[Rule] = "confidence"
    source: ClassVar[str]

    averaging: float = option(0.0, "Decay of the mean of the weights that is exported; 0 exports the last weights.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value of another type, or out of range; subclasses add their own ranges."""
        hints = get_type_hints(type(self))
        for each in fields(self):
            value, hint = getattr(self, each.name), hints[each.name]
            self._expect(_fits(value, hint), f"{each.name} {_wanted(hint)}", repr(value))
        self._expect(0 <= self.averaging < 1, "averaging in [0, 1)", self.averaging)

    @property
    def needs_classmap(self) -> bool:
        """Whether training takes a Classmap."""
        return self.rule == "pair"

    @property
    def first_stage(self) -> Stage | None:
        """What is trained before, see `StagedRecipe`; None where nothing is."""
        return None

    @property
    def held_out(self) -> float:
        """Share of the training images that no weight is trained on, and `settle` sees."""
        return 0.0

    def speed(self, weight: str) -> float:
        """Return the learning rate of the weight of this name, as a multiple of the schedule's."""
        return 1.0

    def build(self, factory: TrunkFactory, *, input_shape: Shape, classes: int) -> nn.Module:
        """Build a fresh network: pixels ``(N, C, H, W)`` to `Logits`.

        Args:
            factory: Makes the trunk.
            input_shape: ``(C, H, W)``.
            classes: K.

        Raises:
            UsageError: The trunk does not fit.
        """
        return build_network(factory, input_shape=input_shape, classes=classes, dual=self.rule == "pair")

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the objective of one batch, a scalar ready for ``backward``."""

    def settle(self, network: nn.Module, pixels: Iterable[Tensor]) -> None:  # noqa: B027, most have nothing to settle
        """Set what no gradient trains; called after every epoch.

        Args:
            network: The network as it is evaluated and exported, in evaluation mode.
            pixels: The held-out training images in batches, float32 ``(B, C, H, W)`` on the network's device.
        """

    def to_json(self) -> dict[str, Any]:
        """Return the name and every option."""
        return {"name": self.name, **asdict(self)}

    def _expect(self, condition: bool, expected: str, got: object) -> None:
        if not condition:
            raise UsageError(f"recipe {self.name}: expected {expected}, got {got}")


def _fits(value: object, hint: Any) -> bool:
    """Say whether a value is of an annotated type: a number, text, a Literal, or a union of them."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(value, each) for each in get_args(hint))
    if hint is float:
        hint = (int, float)
    return isinstance(value, hint) and not isinstance(value, bool)


def _wanted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"to be one of {', '.join(get_args(hint))}"
    kinds = [each.__name__ for each in get_args(hint) or (hint,)]
    return "as " + " or ".join("none" if kind == "NoneType" else kind for kind in kinds)
