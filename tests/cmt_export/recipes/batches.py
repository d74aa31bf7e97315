"""One small batch and a small network, for recipes that are tested by their loss alone."""

import numpy as np
import torch
from torch import nn

from cmt_export.recipes import Batch, Recipe
from tests.cmt_export import residual

LABELS = np.array([0, 2, 1, 1])
CLASSMAP = np.array([1, 2, 0])


def make_batch(*, position: float = 1.0, draw: float = 1.0, seed: int = 0, n: int = 4) -> Batch:
    """A batch of random pixels; equal seeds give equal batches."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        pixels=torch.rand(n, 1, 8, 8, generator=generator),
        labels=torch.from_numpy(np.resize(LABELS, n)),
        classmap=torch.from_numpy(CLASSMAP),
        position=position,
        draw=draw,
        generator=generator,
    )


def make_network(recipe: Recipe, seed: int = 0) -> nn.Module:
    """The recipe's network on the small residual trunk, in evaluation mode."""
    torch.manual_seed(seed)
    return recipe.build(residual.make_trunk, input_shape=(1, 8, 8), classes=3).eval()
