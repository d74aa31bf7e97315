"""A guard in the field, as attacks that see decisions only meet it: 8-bit images in, verdicts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.attacks.attack import BoolArray, FloatArray, IntArray
from calibration.attacks.norms import Budget
from calibration.pixels import to_images, to_pixels
from runtime.errors import UsageError
from runtime.guard import Guard
from runtime.verdicts import Verdicts

LEVEL = 1 / 255
"""One grey level, the least change of a pixel that a camera keeps."""

_ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """Images of the attacker's own, of any classes.

    Attributes:
        images: uint8 ``(G, H, W, C)``.
        labels: Their true labels, integers ``(G,)``.

    Raises:
        UsageError: There are not as many labels as images.
    """

    images: npt.NDArray[np.uint8]
    labels: IntArray

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.labels.shape != self.images.shape[:1]:
            raise UsageError(f"gallery: expected {len(self.images)} labels, one an image, got {self.labels.shape}")


class Deployed:
    """The victim of attacks that ask instead of differentiate: nothing is looked at but the verdicts of a guard.

    Attributes:
        queries: How many images it was asked about so far.
        gallery: What the attacker owns beside the images under attack, as pixels ``(G, C, H, W)`` float32 in [0, 1].
        gallery_labels: Their true labels, ``(G,)``.
    """

    def __init__(self, guard: Guard, *, gallery: Gallery | None = None) -> None:
        """Put a guard behind it, exactly as it is deployed.

        Args:
            guard: The guard.
            gallery: Images of the attacker's own, for attacks that start from one; None where there are none.

        Raises:
            UsageError: The images of the gallery are none that the guard takes.
        """
        self._guard = guard
        self.queries = 0
        shape = guard.spec.input_shape
        images = np.empty((0, *shape), dtype=np.uint8) if gallery is None else gallery.images
        if images.shape[1:] != shape:
            raise UsageError(f"gallery: expected images (G, {', '.join(map(str, shape))}), got {images.shape}")
        self.gallery = to_pixels(images)
        self.gallery_labels = np.empty(0, dtype=np.int64) if gallery is None else gallery.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """The axes of its pixels behind the batch axis, ``(C, H, W)``."""
        height, width, channels = self._guard.spec.input_shape
        return channels, height, width

    @property
    def classes(self) -> Mapping[str, int]:
        """K, under the name ``logits``."""
        return {"logits": len(self._guard.spec.classes)}

    @property
    def classmap(self) -> tuple[int, ...] | None:
        """M of its rule, ``(K,)``; None for a single head."""
        return self._guard.spec.classmap

    def verdicts(self, x: FloatArray) -> Verdicts:
        """Return the verdicts on pixels, ``(n, C, H, W)`` float32 in [0, 1], rounded to the 8-bit images of a camera.

        Raises:
            UsageError: A value is outside [0, 1] or not finite, the shape is another one, or n is 0.
            ModelError: As for `Guard.classify`.
        """
        verdicts = self._guard.classify(to_images(x))
        self.queries += len(x)
        return verdicts

    def fooled(self, x: FloatArray, labels: IntArray) -> BoolArray:
        """Return where pixels, ``(n, C, H, W)``, are accepted under another label than ``(n,)``, ``(n,)`` bool."""
        return is_fooled(self.verdicts(x), labels)


def is_fooled(verdicts: Verdicts, labels: IntArray) -> BoolArray:
    """Return where a label other than the true one, ``(n,)``, was accepted, ``(n,)`` bool."""
    fooled: BoolArray = verdicts.accepted & (verdicts.labels != labels)
    return fooled


def check_images(pixels: FloatArray) -> None:
    """Check that a camera could have delivered `pixels`, ``(n, C, H, W)`` float32 in [0, 1].

    Raises:
        UsageError: A value lies between two of the 256 grey levels.
    """
    between = (round_to_levels(pixels) != pixels).reshape(len(pixels), -1).any(axis=1)
    if between.any():
        raise UsageError(
            f"expected 8-bit images divided by 255, got values between grey levels in {between.sum()} of "
            f"{len(between)} images; a deployed guard takes nothing else, see calibration.pixels"
        )


def round_to_levels(x: FloatArray) -> FloatArray:
    """Return what is left of pixels, ``(n, C, H, W)`` in [0, 1], after a camera: the nearest of 256 levels each."""
    return to_pixels(to_images(x))


def round_within(x: FloatArray, center: FloatArray, budget: Budget) -> FloatArray:
    """Return images near `x` that lie in the ball around `center`, all ``(n, C, H, W)`` float32.

    For L-infinity that is the nearest image in the ball. For L2, rounding may lengthen a change: then pixels are moved
    back by one level, those first that rounding moved out furthest, until the length is within the radius.

    Args:
        x: Pixels; what is outside the ball or [0, 1] is projected first.
        center: 8-bit images divided by 255.
        budget: The ball, which is kept but for 1e-4 grey levels, also where ε is no multiple of a level.
    """
    middle = np.rint(center * np.float32(255))
    if budget.norm == "linf":
        reach = np.float32(np.floor(255 * budget.epsilon + _ROUNDING))
        change = np.clip(np.rint(x * np.float32(255)) - middle, -reach, reach)
    else:
        change = _shorten(budget.project(x, center) * np.float32(255) - middle, radius=255 * budget.epsilon)
    within: FloatArray = np.clip(middle + change, 0, 255) / np.float32(255)
    return within


def _shorten(wanted: FloatArray, *, radius: float) -> FloatArray:
    """Return whole changes near `wanted` ones, ``(n, ...)``, of an L2 length of at most `radius`, in grey levels."""
    change = np.rint(wanted)
    limit = (radius + _ROUNDING) ** 2
    outside = np.flatnonzero(_squares(change) > limit)
    if not len(outside):
        return change
    levels, goal = (values[outside].reshape(len(outside), -1) for values in (change, wanted))
    moved_out = np.abs(levels) - np.abs(goal)
    order = np.argsort(-np.where(levels == 0, -np.inf, moved_out), axis=1, kind="stable")
    gains = np.where(levels == 0, 0, 2 * np.abs(levels) - 1).astype(np.float64)
    excess = _squares(levels)[:, None] - limit
    before = np.cumsum(np.take_along_axis(gains, order, axis=1), axis=1) - np.take_along_axis(gains, order, axis=1)
    back = np.zeros_like(levels)
    np.put_along_axis(back, order, (before < excess).astype(levels.dtype), axis=1)
    change[outside] = (levels - back * np.sign(levels)).reshape(len(outside), *change.shape[1:])
    return change


def _squares(change: FloatArray) -> npt.NDArray[np.float64]:
    """Return the squared L2 length of each image's change ``(n, ...)``, ``(n,)`` float64."""
    flat = change.reshape(len(change), -1).astype(np.float64)
    squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", flat, flat)
    return squares
