"""The denoising auto-encoders of MagNet, and what its detectors read off them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmt_export.networks import Shape

_FILTERS = 3
_GAIN = 4.0
"""Sigmoids shrink what passes them: with PyTorch's own initial weights both auto-encoders still answered one constant
image after 470 steps on MNIST. Glorot and Bengio's weights, times four for the logistic sigmoid, reconstruct."""


class Autoencoder(nn.Module):
    """Maps pixels ``(N, C, H, W)`` to pixels of the same shape in [0, 1], through 3×3 convolutions with sigmoids.

    Source: Meng and Chen 2017 (arXiv 1705.09064), tables 3 and 4, and its published code.
    """

    def __init__(self, input_shape: Shape, *, pooled: bool) -> None:
        """Make one for images ``(C, H, W)``; a pooled one works at half the resolution between its outer layers."""
        super().__init__()
        channels, self._height, self._width = input_shape
        inner: list[nn.Module] = [nn.Conv2d(_FILTERS, _FILTERS, 3, padding=1), nn.Sigmoid()]
        if pooled:
            inner = [nn.AvgPool2d(2), *inner, nn.Conv2d(_FILTERS, _FILTERS, 3, padding=1), nn.Sigmoid()]
            inner += [nn.Upsample(scale_factor=2), nn.Conv2d(_FILTERS, _FILTERS, 3, padding=1), nn.Sigmoid()]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, _FILTERS, 3, padding=1),
            nn.Sigmoid(),
            *inner,
            nn.Conv2d(_FILTERS, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight, gain=_GAIN)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self._padding = (0, self._width % 2, 0, self._height % 2) if pooled else (0, 0, 0, 0)

    def forward(self, pixels: Tensor) -> Tensor:
        """Reconstruct pixels, float32 ``(N, C, H, W)`` in [0, 1]."""
        if any(self._padding):  # halving an odd side and doubling it again would lose a row
            pixels = F.pad(pixels, self._padding)
        reconstructed: Tensor = self.layers(pixels)
        return reconstructed[:, :, : self._height, : self._width] if any(self._padding) else reconstructed


def reconstruction_error(pixels: Tensor, reconstructed: Tensor, *, power: int) -> Tensor:
    """Return the mean over an image's pixels of |x − AE(x)|^p, ``(N,)``.

    Source: Meng and Chen 2017, section 4.2.
    """
    return ((pixels - reconstructed).abs() ** power).mean((1, 2, 3))


def jensen_shannon_divergence(logits: Tensor, others: Tensor, *, temperature: float) -> Tensor:
    """Return ½·KL(p ‖ m) + ½·KL(q ‖ m) with m = ½·(p + q), ``(N,)`` in [0, log 2].

    Args:
        logits: p is their softmax at `temperature`, ``(N, K)``.
        others: q is theirs.
        temperature: What both are divided by first, so that a sure answer does not hide a change.

    Source: Meng and Chen 2017, section 4.2, equation 1.
    """
    log_p, log_q = (F.log_softmax(each / temperature, 1) for each in (logits, others))
    log_m = torch.logsumexp(torch.stack([log_p, log_q]), 0) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(1)
