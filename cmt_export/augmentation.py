"""Random changes of training images that keep their label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(pixels: Tensor, *, flip: bool, crop: int, affine: float, generator: torch.Generator) -> Tensor:
    """Return images of the same shape, each changed by chance of its own.

    Args:
        pixels: ``(B, C, H, W)`` in [0, 1].
        flip: Whether each image is mirrored left to right with probability one half.
        crop: How many black pixels are put on every side before a window of the old size is cut out anywhere, at least
            0: moves each image by up to as many pixels.
        affine: Largest change, at least 0 and less than ½, of each entry of the 2x2 unit matrix by which an image is
            turned, stretched and slanted about its middle; each pixel takes the nearest one, so that no stroke gets
            paler than it was (a pale one is what a bounded attacker can erase), and black from outside.
        generator: For every random number, on the device of `pixels`.

    Source: flip and crop as He et al. 2016 (arXiv 1512.03385), section 4.2, for CIFAR-10, with 4 pixels.
    """
    if affine:
        pixels = _affine(pixels, affine, generator)
    if crop:
        pixels = _crop(pixels, crop, generator)
    if flip:
        flipped = torch.rand((len(pixels), 1, 1, 1), generator=generator, device=pixels.device) < 0.5
        pixels = torch.where(flipped, pixels.flip(3), pixels)
    return pixels


def _affine(pixels: Tensor, most: float, generator: torch.Generator) -> Tensor:
    n, device = len(pixels), pixels.device
    change = torch.rand((n, 2, 2), generator=generator, device=device).mul_(2).sub_(1).mul_(most)
    matrix = F.pad(torch.eye(2, device=device) + change, (0, 1))
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="nearest", align_corners=False)


def _crop(pixels: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    n, _, height, width = pixels.shape
    device = pixels.device
    top, left = torch.randint(2 * margin + 1, (2, n, 1, 1), generator=generator, device=device)
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    image = torch.arange(n, device=device)[:, None, None]
    padded = F.pad(pixels, (margin, margin, margin, margin)).movedim(1, 3)
    return padded[image, top + rows, left + columns].movedim(3, 1)
