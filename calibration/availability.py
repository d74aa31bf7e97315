"""Harmless changes: what a guard must go on accepting, or it rejects all that is near and calls it detection.

Each is made of 8-bit images and gives 8-bit images, as a camera, a converter or a hand does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from calibration.judge import classify
from calibration.metrics import Interval, share
from runtime.guard import Guard

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.integer]
Change = Callable[[ByteArray, np.random.Generator], ByteArray]


@dataclass(frozen=True, kw_only=True)
class Availability:
    """What became of benign images after one harmless change.

    Attributes:
        change: Which one.
        invisible: Whether it is harmless: hardly seen, so that a guard has no excuse to reject what it accepted before.
        accepted: Share of all images that are accepted, with its exact 95 % interval.
        right_label: Share whose label is still right, the rule ignored.
    """

    change: str
    invisible: bool
    accepted: Interval
    right_label: Interval


def brighter(images: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Return images one grey level brighter."""
    return np.where(images < 255, images + 1, images).astype(np.uint8)


def gaussian(levels: float) -> Change:
    """Return a change that adds normal noise with a standard deviation of so many grey levels."""

    def change(images: ByteArray, rng: np.random.Generator) -> ByteArray:
        noisy = images + rng.normal(0, levels, images.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    return change


def uniform(epsilon: float) -> Change:
    """Return a change that adds uniform noise of at most `epsilon`, pixels in [0, 1]."""

    def change(images: ByteArray, rng: np.random.Generator) -> ByteArray:
        noisy = images + 255 * epsilon * rng.uniform(-1, 1, images.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    return change


def jpeg(quality: int) -> Change:
    """Return a change that saves and loads images as JPEG of a quality from 1 to 95."""

    def change(images: ByteArray, rng: np.random.Generator) -> ByteArray:
        return np.stack([_through_jpeg(image, quality) for image in images])

    return change


def shifted(*, rows: int = 0, columns: int = 0) -> Change:
    """Return a change that moves images down and to the right by so many pixels, the edge left behind repeated."""

    def change(images: ByteArray, rng: np.random.Generator) -> ByteArray:
        height, width = images.shape[1:3]
        down = np.clip(np.arange(height) - rows, 0, height - 1)
        right = np.clip(np.arange(width) - columns, 0, width - 1)
        return np.ascontiguousarray(images[:, down][:, :, right])

    return change


UNCHANGED = "none"
"""The name of no change at all."""

INVISIBLE: dict[str, Change] = {
    UNCHANGED: lambda images, rng: images,
    "one grey level brighter": brighter,
    "float noise of one level, rounded to 8 bits": uniform(1 / 255),
    "normal noise, 1 level": gaussian(1),
    "JPEG, quality 95": jpeg(95),
    "one pixel to the right": shifted(columns=1),
    "one pixel to the left": shifted(columns=-1),
    "one pixel down": shifted(rows=1),
    "one pixel up": shifted(rows=-1),
}
"""What a person does not see, by its name."""

CHANGES: dict[str, Change] = {
    **INVISIBLE,
    "normal noise, 2 levels": gaussian(2),
    "uniform noise, 0.1": uniform(0.1),
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 75": jpeg(75),
}
"""Every change by its name."""


def measure_availability(guard: Guard, images: ByteArray, labels: IntArray, *, seed: int = 0) -> Iterator[Availability]:
    """Yield what each change does to benign images.

    Args:
        guard: The guard.
        images: uint8 ``(N, H, W, C)``, N at least 1.
        labels: Their true labels, ``(N,)``.
        seed: What noise is drawn with.
    """
    for name, change in CHANGES.items():
        verdicts = classify(guard, np.ascontiguousarray(change(images, np.random.default_rng(seed))))
        accepted, right = int(verdicts.accepted.sum()), int(np.sum(verdicts.labels == labels))
        yield Availability(
            change=name,
            invisible=name in INVISIBLE,
            accepted=share(accepted, len(images)),
            right_label=share(right, len(images)),
        )


def _through_jpeg(image: ByteArray, quality: int) -> ByteArray:
    stored, grey = io.BytesIO(), image.shape[2] == 1
    Image.fromarray(image[..., 0] if grey else image).save(stored, format="JPEG", quality=quality)
    loaded = np.asarray(Image.open(stored), dtype=np.uint8)
    return loaded[..., None] if grey else loaded
