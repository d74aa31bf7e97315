"""The adversarial sets: which attack, with what strength, on which network, in parts that an interruption can lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from calibration.attacks import Attack, Fgs, Igs, Pgd
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.deepfool import DeepFool
from calibration.attacks.jsma import Jsma
from cmt_export.reproduction.crafting import Craft, Sample
from cmt_export.reproduction.goals import Goal, Targets
from cmt_export.reproduction.lineup import UNLOCKED, LineUp
from cmt_export.reproduction.preset import KAPPAS
from cmt_export.reproduction.training_units import Export

Parts = tuple[Craft, ...]

BLACK_BOX, ORACLE, Z, Z_STAR = "substitute", "oracle", "z", "z-star"
"""Readings: who is differentiated. The last three are the paper's one grey-box."""

READINGS: Mapping[str, tuple[str, ...]] = {"black-box": (BLACK_BOX,), "grey-box": (Z_STAR, Z, ORACLE)}
"""Readings of each threat of Tables 3 and 4, the headline first."""

_FAST_PART = 2500
_SLOW_PART = 100
_DEEPFOOL_GRADIENTS = 25
_SETTLING = 0.6
"""Share of its gradients that C&W takes for a κ on average: searches end early, later ones start near their end."""


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Every adversarial set.

    Attributes:
        lineup: The networks.
        images: Test images.
    """

    lineup: LineUp
    images: int

    @cached_property
    def sources(self) -> Mapping[str, Export]:
        """What is differentiated under each reading."""
        lineup = self.lineup
        return {
            BLACK_BOX: lineup.substitute,
            ORACLE: lineup.oracle,
            Z: lineup.defended[UNLOCKED],
            Z_STAR: lineup.guard,
        }

    @property
    def epsilon(self) -> float:
        """The paper's ε."""
        return self.lineup.preset.epsilons[0]

    def transferred(self, reading: str, attack: str, *, epsilon: float | None = None) -> Parts:
        """Return a set of Tables 3 and 4.

        Args:
            reading: Who is differentiated.
            attack: ``fgs``, ``igs``, ``deepfool`` or ``cw``, the latter for every κ.
            epsilon: Of FGS and IGS; None takes the paper's.
        """
        source, epsilon = self.sources[reading], self.epsilon if epsilon is None else epsilon
        if attack == "fgs":
            return self._parts(source, Fgs(epsilon=epsilon), gradients=1, n=None, size=_FAST_PART)
        if attack == "igs":
            return self.igs(source, epsilon=epsilon)
        if attack == "deepfool":
            return self._parts(source, DeepFool(), gradients=_DEEPFOOL_GRADIENTS)
        return self._swept(source)

    def igs(self, source: Export, *, epsilon: float) -> Parts:
        """Return the set of an attacker who ignores the rule, of many steps."""
        steps = self.lineup.config.igs_steps
        return self._parts(source, Igs(epsilon=epsilon, steps=steps), gradients=steps)

    def pgd(self, source: Export, *, epsilon: float) -> Parts:
        """Return the set of an attacker who knows the rule."""
        config = self.lineup.config
        attack = Pgd(epsilon=epsilon, steps=config.pgd_steps, restarts=config.pgd_restarts)
        return self._parts(source, attack, gradients=(config.pgd_steps + 1) * config.pgd_restarts, goal="pair")

    def generated(self, source: Export, goal: Goal, *, targeted: bool) -> Parts:
        """Return a set of Table 5: targets at random, or none; Equation 10 needs one and takes the likeliest."""
        none: Targets = "likeliest" if goal == "eq-10" else "none"
        targets: Targets = "random" if targeted else none
        return self._swept(source, goal=goal, targets=targets, n=self.lineup.config.generated)

    def effort(self, source: Export, targets: Targets) -> Parts:
        """Return the least changes that reach one class (the claim of section 5.1)."""
        pairs = self.lineup.guard if targets == "partner" else None
        n = self.lineup.config.generated
        return self._swept(source, targets=targets, n=n, kappas=KAPPAS[:1], pairs=pairs)

    @cached_property
    def jsma(self) -> Parts:
        """The set of the claim in section 7, from the substitute."""
        height, width, channels = self.lineup.preset.input_shape
        attack = Jsma()
        return self._parts(self.sources[BLACK_BOX], attack, gradients=attack.gamma * height * width * channels / 4)

    def _swept(
        self,
        source: Export,
        *,
        goal: Goal = "label",
        targets: Targets = "none",
        n: int | None = None,
        kappas: tuple[float, ...] = KAPPAS,
        pairs: Export | None = None,
    ) -> Parts:
        config = self.lineup.config
        attack = CarliniWagner(rounds=config.cw_rounds, steps=config.cw_steps, search=config.cw_search)
        gradients = _SETTLING * len(kappas) * (config.cw_rounds * config.cw_steps) + attack.search / 2
        options: dict[str, Any] = {"goal": goal, "targets": targets, "kappas": kappas, "pairs": pairs}
        return self._parts(source, attack, gradients=gradients, n=n or config.n, **options)

    def _parts(
        self,
        source: Export,
        attack: Attack[Any],
        *,
        gradients: float,
        n: int | None = 0,
        size: int = _SLOW_PART,
        **options: Any,
    ) -> Parts:
        """Cut a set into parts; `n` is None for all test images, 0 for what was asked for."""
        n = self.lineup.config.n if n == 0 else n
        total = self.images if n is None else min(n, self.images)
        sample = Sample(n=n, seed=self.lineup.config.seed)
        return tuple(
            Craft(
                source=source,
                attack=attack,
                gradients=gradients,
                sample=sample,
                first=first,
                last=min(first + size, total),
                **options,
            )
            for first in range(0, total, size)
        )
