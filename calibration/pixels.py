"""Between decoded images and the `pixels` of an exported file, with the arithmetic of its graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import UsageError

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

_WHITE = np.float32(255)


def to_pixels(images: npt.NDArray[Any]) -> FloatArray:
    """Return images as the graph sees them behind its prefix: x / 255 in float32, channels first.

    Args:
        images: uint8 ``(N, H, W, C)``.

    Returns:
        float32 ``(N, C, H, W)`` in [0, 1], bit for bit the exported file's inner tensor `pixels`.

    Raises:
        UsageError: The type or the number of axes is another one.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UsageError(f"expected images as uint8 (N, H, W, C), got {images.dtype} {images.shape}; decode them first")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / _WHITE


def to_images(pixels: FloatArray) -> ByteArray:
    """Return pixels as 8-bit images, as a camera or an image file would keep them.

    Args:
        pixels: float32 ``(N, C, H, W)`` in [0, 1].

    Returns:
        uint8 ``(N, H, W, C)``, each value rounded to the nearest of 256 levels; the inverse of `to_pixels`.

    Raises:
        UsageError: The number of axes is another one, or a value is outside [0, 1] or not finite.
    """
    if pixels.ndim != 4 or not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(f"expected pixels as floats (N, C, H, W), got {pixels.dtype} {pixels.shape}")
    if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise UsageError(f"expected pixels in [0, 1], got {pixels.min()} to {pixels.max()}; clip them first")
    return np.ascontiguousarray(np.rint(pixels * _WHITE).astype(np.uint8).transpose(0, 2, 3, 1))
