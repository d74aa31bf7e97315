"""What each data set of the paper is reproduced with: networks, lengths of training, strengths of attacks."""

from __future__ import annotations

from dataclasses import dataclass

from calibration.datasets import Dataset
from cmt_export.checkpoint import Execution
from runtime.errors import UsageError

KAPPAS = tuple(float(kappa) for kappa in range(0, 41, 5))
"""κ of every sweep with Carlini & Wagner's attack (Table 5, Figures 4 to 6)."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One data set.

    Attributes:
        name: What `cmt reproduce` takes.
        input_shape: ``(H, W, C)`` of its images.
        network: Trunk of the oracle and of every defended network.
        substitute: Trunk of the black-box attacker's network.
        epochs: Of oracle and defended networks.
        substitute_epochs: Of the substitute.
        ablation_epochs: Of networks that stand in the ablation table alone; its baseline is trained as long.
        batch_size: Images a training step.
        learning_rate: Peak of the schedule.
        averaging: Decay of the mean of the weights, 0 for none.
        flip: Whether half of the training images are mirrored.
        crop: Largest move of a training image, in pixels.
        training_epsilon: Largest FGS step in training and in the estimation of the Classmap.
        other_epsilon: The other largest step that the ablation trains with.
        epsilons: Radii of FGS and IGS, the paper's first.
        execution: How the arithmetic of training runs; None measures.
        tables: Whether the paper has figures of this set.
    """

    name: str
    input_shape: tuple[int, int, int]
    network: str = "oracle"
    substitute: str
    epochs: int
    substitute_epochs: int
    ablation_epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    averaging: float = 0.0
    flip: bool = False
    crop: int = 0
    training_epsilon: float
    other_epsilon: float
    epsilons: tuple[float, ...]
    execution: Execution | None = None
    tables: bool = True

    def require(self, data: Dataset) -> None:
        """Check that data can be this set.

        Raises:
            UsageError: Its images have another size, or there are not ten classes.
        """
        if data.input_shape != self.input_shape or len(data.classes) != 10:
            raise UsageError(
                f"{data.name}: expected {self.name}, 10 classes of {_by(self.input_shape)}, got {len(data.classes)} "
                f"of {_by(data.input_shape)}; name the folder of {self.name}, or another set"
            )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="mnist",
            input_shape=(28, 28, 1),
            substitute="s-mnist",
            epochs=8,
            substitute_epochs=6,
            ablation_epochs=4,
            training_epsilon=0.3,
            other_epsilon=0.1,
            epsilons=(0.1, 0.3),
        ),
        Preset(
            name="cifar10",
            input_shape=(32, 32, 3),
            substitute="s-cifar10",
            epochs=30,
            substitute_epochs=12,
            ablation_epochs=8,
            averaging=0.999,
            flip=True,
            crop=3,
            training_epsilon=0.1,
            other_epsilon=8 / 255,
            epsilons=(0.1, 8 / 255),
        ),
        Preset(
            name="digits",
            input_shape=(8, 8, 1),
            network="s-mnist",
            substitute="s-cifar10",
            epochs=12,
            substitute_epochs=6,
            ablation_epochs=12,
            batch_size=64,
            learning_rate=2e-3,
            training_epsilon=0.2,
            other_epsilon=0.1,
            epsilons=(0.1, 0.2),
            execution=Execution(device="cpu", precision="fp32", channels_last=True, threads=1),
            tables=False,
        ),
    )
}
"""The paper's two data sets, and one that is bundled and small, to see the whole thing in minutes."""
