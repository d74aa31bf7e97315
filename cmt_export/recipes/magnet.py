"""`magnet`: auto-encoders that refuse what they cannot reconstruct, and reform what they can."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmt_export.networks import Logits, Shape, TrunkFactory, build_network
from cmt_export.recipes.autoencoder import Autoencoder, jensen_shannon_divergence, reconstruction_error
from cmt_export.recipes.recipe import Batch, Recipe, option
from runtime.spec import Rule

_TEMPERATURES = (10.0, 40.0)
_SMALLEST_LIMIT = 1e-4
"""Float32 computes a divergence to about 1e-7: below this limit, rounding would decide."""


class MagnetNetwork(nn.Module):
    """A classifier of reformed images, and detectors that compare an image with its reconstruction.

    With two auto-encoders, each is a detector by its reconstruction error: squared for the first, absolute for the
    second. With one, its absolute error is a detector, and so is the divergence between the classifier's answers to
    image and reconstruction, at temperatures 10 and 40. The first auto-encoder is the reformer.
    """

    def __init__(self, classifier: nn.Module, input_shape: Shape, *, autoencoders: int) -> None:
        """Put one or two auto-encoders for images ``(C, H, W)`` before a classifier."""
        super().__init__()
        self.classifier = classifier
        self.autoencoders = nn.ModuleList(
            Autoencoder(input_shape, pooled=autoencoders == 2 and index == 0) for index in range(autoencoders)
        )
        detectors = autoencoders if autoencoders == 2 else 1 + len(_TEMPERATURES)
        self.limits: Tensor
        self.register_buffer("limits", torch.full((detectors,), 1e30))

    def forward(self, pixels: Tensor) -> Logits:
        """Classify the reformed pixels, float32 ``(N, C, H, W)`` in [0, 1], and say what the detectors read."""
        reconstructed = [autoencoder(pixels) for autoencoder in self.autoencoders]
        outputs: Logits = self.classifier(reconstructed[0])
        readings = self._readings(pixels, reconstructed, outputs)
        return Logits(logits=outputs.logits, anomalies=torch.stack(readings, 1) / self.limits)

    def _readings(self, pixels: Tensor, reconstructed: list[Tensor], reformed: Logits) -> list[Tensor]:
        if len(reconstructed) == 2:
            return [reconstruction_error(pixels, each, power=2 - i) for i, each in enumerate(reconstructed)]
        plain: Logits = self.classifier(pixels)
        return [
            reconstruction_error(pixels, reconstructed[0], power=1),
            *(
                jensen_shannon_divergence(plain.logits.float(), reformed.logits.float(), temperature=temperature)
                for temperature in _TEMPERATURES
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class Magnet(Recipe):
    """A single head trained with cross-entropy, and auto-encoders trained to remove noise.

    They share no weight, so that one loop trains all of them as if each were alone. The limit of a detector is set on
    training images that neither saw: it refuses a share `false_positives` of them. Classifier, detectors and reformer
    are all in the exported graph, whose rule is ``detector``.

    Attributes:
        autoencoders: ``two``, the paper's for MNIST: reconstruction errors; ``one``, its for CIFAR-10: reconstruction
            error and two divergences; ``by-channels``: two for grey images, one for others.
        noise: Standard deviation of the noise to remove, in units of [0, 1].
        false_positives: Share of the held-out images that each detector refuses, in [0, 1).
        held_out: Share of the training images held out for the limits, in (0, 1).
        autoencoder_speed: Learning rate of the auto-encoders as a multiple of the classifier's: they are small, and a
            training as short as the classifier's leaves them unfinished at its rate. The paper gives them 100 epochs.

    Source: Meng and Chen 2017 (arXiv 1705.09064), section 4, and its published code for MNIST: noise 0.1, a share of
        0.001 for each detector, 5,000 of 60,000 images held out. The configuration for CIFAR-10, noise 0.025 and a
        share of 0.005 there, could not be checked.
    """

    name: ClassVar[str] = "magnet"
    rule: ClassVar[Rule] = "detector"
    source: ClassVar[str] = "Meng and Chen 2017"

    autoencoders: Literal["by-channels", "two", "one"] = option(
        "by-channels", "Two with their errors, one with its error and two divergences, or by the number of channels."
    )
    noise: float = option(0.1, "Standard deviation of the noise that auto-encoders learn to remove.")
    false_positives: float = option(0.001, "Share of held-out benign images that each detector refuses.")
    held_out: float = option(1 / 12, "Share of the training images held out for the limits of the detectors.")

    autoencoder_speed: float = option(30.0, "Learning rate of the auto-encoders as a multiple of the classifier's.")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(0 <= self.noise <= 1, "noise in [0, 1]", self.noise)
        self._expect(0 <= self.false_positives < 1, "false_positives in [0, 1)", self.false_positives)
        self._expect(0 < self.held_out < 1, "held_out in (0, 1)", self.held_out)
        self._expect(self.autoencoder_speed > 0, "autoencoder_speed > 0", self.autoencoder_speed)

    def speed(self, weight: str) -> float:
        """Let auto-encoders learn faster."""
        return self.autoencoder_speed if weight.startswith("autoencoders.") else 1.0

    def build(self, factory: TrunkFactory, *, input_shape: Shape, classes: int) -> nn.Module:
        """Build classifier, auto-encoders and detectors without limits."""
        classifier = build_network(factory, input_shape=input_shape, classes=classes, dual=False)
        two = self.autoencoders == "two" or (self.autoencoders == "by-channels" and input_shape[0] == 1)
        return MagnetNetwork(classifier, input_shape, autoencoders=2 if two else 1)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return CE(Z(x), y) plus, for each auto-encoder, the mean squared error of AE(x + noise) against x."""
        assert isinstance(network, MagnetNetwork)  # what `build` returns
        outputs: Logits = network.classifier(batch.pixels)
        loss = F.cross_entropy(outputs.logits.float(), batch.labels)
        for autoencoder in network.autoencoders:
            noise = torch.empty_like(batch.pixels).normal_(0, self.noise, generator=batch.generator)
            reconstructed = autoencoder((batch.pixels + noise).clamp_(0, 1))
            loss = loss + F.mse_loss(reconstructed.float(), batch.pixels)
        return loss

    @torch.no_grad()
    def settle(self, network: nn.Module, pixels: Iterable[Tensor]) -> None:
        """Set the limits: all but a share `false_positives` of the held-out images stay within each."""
        assert isinstance(network, MagnetNetwork)  # what `build` returns
        network.limits.fill_(1.0)
        readings = torch.cat([network(batch).anomalies for batch in pixels])
        refused = math.floor(self.false_positives * len(readings))
        network.limits.copy_(readings.sort(0).values[len(readings) - 1 - refused].clamp(min=_SMALLEST_LIMIT))
