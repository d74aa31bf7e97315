"""The running mean of the weights: what is evaluated and exported in place of the last step's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return a mean of the weights of `network` that `update_parameters` keeps up to date.

    Step n (from 0) mixes the new weights in with 1 − min(decay, (1 + n) / (10 + n)): a mean over a thousand steps would
    otherwise hold the random initial weights for the first thousands. Buffers are those of the network itself.

    Args:
        network: On its device, in its memory format.
        decay: In [0, 1).

    Source: Polyak and Juditsky 1992 for the mean; the growing decay is TensorFlow's ``ExponentialMovingAverage``.
    """

    @torch.no_grad()
    def mix(means: Tensors, weights: Tensors, n: Tensor | int) -> None:
        done = int(n)
        torch._foreach_lerp_(means, weights, 1 - min(decay, (1 + done) / (10 + done)))

    return AveragedModel(network, multi_avg_fn=mix)
