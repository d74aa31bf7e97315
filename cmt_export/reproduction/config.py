"""What one `cmt reproduce` was asked for, beyond its preset."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import UsageError

_COUNTS = (
    "n",
    "generated",
    "evaluated",
    "igs_steps",
    "cw_steps",
    "cw_rounds",
    "cw_search",
    "pgd_steps",
    "pgd_restarts",
)


@dataclass(frozen=True, kw_only=True)
class ReproductionConfig:
    """Sizes and efforts; every default that the paper states is the paper's.

    Attributes:
        n: Test images that slow attacks are made on: IGS, DeepFool, C&W, JSMA, and those of the ablation.
        generated: Images of Table 5 and of the effort claim.
        evaluated: Images of the evaluation behind ``report.html``.
        epochs: Of every network; None leaves it to the preset.
        igs_steps: Steps of IGS.
        cw_steps: Steps of a round of C&W.
        cw_rounds: Rounds of C&W.
        cw_search: Steps after which C&W gives an image up that it has not succeeded on.
        pgd_steps: Steps of PGD.
        pgd_restarts: Starts of PGD.
        seed: Of weights, samples and random targets.

    Raises:
        UsageError: A value is out of range.
    """

    n: int = 1000
    generated: int = 100
    evaluated: int = 200
    epochs: int | None = None
    igs_steps: int = 20
    cw_steps: int = 30
    cw_rounds: int = 3
    cw_search: int = 100
    pgd_steps: int = 40
    pgd_restarts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UsageError(f"{_flag(name)}: expected at least 1, got {getattr(self, name)}")
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--epochs: expected at least 1, got {self.epochs}")
        if self.seed < 0:
            raise UsageError(f"--seed: expected 0 or more, got {self.seed}")


def _flag(name: str) -> str:
    return "-n" if name == "n" else f"--{name.replace('_', '-')}"
