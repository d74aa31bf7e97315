"""The networks of a reproduction: oracle, substitute, the defence in each reading, and those of the ablation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from calibration.classmap import ClassmapConfig, Shape
from cmt_export.checkpoint import Schedule
from cmt_export.recipes import Cmt, Recipe, Undefended
from cmt_export.reproduction.config import ReproductionConfig
from cmt_export.reproduction.preset import Preset
from cmt_export.reproduction.training_units import Export, Train

GUARD, FROZEN, UNLOCKED, PER_ROW = "guard", "frozen lock", "no lock", "per-row Classmap"
"""Readings of the defence: a trained lock and a one-to-one Classmap, and one departure from that each."""

DEFENDED = (GUARD, FROZEN, UNLOCKED, PER_ROW)

BASELINE = "as it ships"
"""The row of the ablation that every other departs from in one option."""


@dataclass(frozen=True, kw_only=True)
class LineUp:
    """Every network by its name.

    Attributes:
        preset: The data set.
        config: What was asked for.
        images: Training images.
    """

    preset: Preset
    config: ReproductionConfig
    images: int

    @cached_property
    def oracle(self) -> Export:
        """The undefended network that the paper defends."""
        return self._undefended(self.preset.network, self.preset.epochs)

    @cached_property
    def substitute(self) -> Export:
        """What the black-box attacker has."""
        return self._undefended(self.preset.substitute, self.preset.substitute_epochs)

    @cached_property
    def defended(self) -> Mapping[str, Export]:
        """The defence in each reading, by `DEFENDED`."""
        cmt, epochs = self._cmt, self.preset.epochs
        return {
            GUARD: self._defended(cmt, epochs),
            FROZEN: self._defended(replace(cmt, lock="frozen"), epochs),
            UNLOCKED: self._defended(replace(cmt, lock="none"), epochs),
            PER_ROW: self._defended(cmt, epochs, shape="per-row"),
        }

    @property
    def guard(self) -> Export:
        """The headline."""
        return self.defended[GUARD]

    @cached_property
    def ablation(self) -> Mapping[str, Export]:
        """One network for each row of the ablation table, the baseline first."""
        cmt, epochs = self._cmt, self.preset.ablation_epochs
        rows: dict[str, tuple[Cmt, Shape]] = {
            BASELINE: (cmt, "one-to-one"),
            "lock frozen": (replace(cmt, lock="frozen"), "one-to-one"),
            "lock none": (replace(cmt, lock="none"), "one-to-one"),
            "Classmap per-row": (cmt, "per-row"),
            "gamma 0.05": (_weighted(cmt, 0.05), "one-to-one"),
            "gamma 0.5": (_weighted(cmt, 0.5), "one-to-one"),
            "robust loss literal": (replace(cmt, robust_loss="literal"), "one-to-one"),
            f"training ε up to {self.preset.other_epsilon:.2g}": (
                replace(cmt, epsilon=self.preset.other_epsilon),
                "one-to-one",
            ),
            f"training ε always {cmt.epsilon:.2g}": (replace(cmt, epsilon_sampling="fixed"), "one-to-one"),
        }
        return {name: self._defended(recipe, epochs, shape=shape) for name, (recipe, shape) in rows.items()}

    @property
    def _cmt(self) -> Cmt:
        return Cmt(epsilon=self.preset.training_epsilon, averaging=self.preset.averaging)

    def _undefended(self, trunk: str, epochs: int) -> Export:
        return Export(train=self._train(Undefended(averaging=self.preset.averaging), trunk, epochs))

    def _defended(self, recipe: Cmt, epochs: int, *, shape: Shape = "one-to-one") -> Export:
        epsilon_max, epsilon = recipe.classmap_steps
        classmap = ClassmapConfig(epsilon_max=epsilon_max, epsilon=epsilon, shape=shape, seed=self.config.seed)
        train = self._train(recipe, self.preset.network, epochs)
        return Export(train=replace(train, classmap=classmap, oracle=self.oracle))

    def _train(self, recipe: Recipe, trunk: str, epochs: int) -> Train:
        schedule = Schedule(
            epochs=self.config.epochs or epochs,
            batch_size=self.preset.batch_size,
            learning_rate=self.preset.learning_rate,
            seed=self.config.seed,
            flip=self.preset.flip,
            crop=self.preset.crop,
        )
        return Train(trunk=trunk, recipe=recipe, schedule=schedule, images=self.images, execution=self.preset.execution)


def _weighted(recipe: Cmt, gamma: float) -> Cmt:
    """Return a recipe with another γ, α and β equal as in the paper."""
    return replace(recipe, gamma=gamma, alpha=(1 - gamma) / 2, beta=(1 - gamma) / 2)
