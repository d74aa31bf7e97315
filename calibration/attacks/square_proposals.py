"""What the Square attack proposes next: random windows on the surface of a ball, for many images at once.

A proposal is made from uniform numbers that the caller drew, one row per image, so that no image depends on another.

Source: Andriushchenko et al. 2020 (Square Attack), section 3.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from calibration.attacks.attack import BoolArray, FloatArray
from calibration.attacks.deployed import round_within
from calibration.attacks.norms import Budget, lengths, per_image

_TINY = np.float32(1e-12)
_TILES = 5


class Proposals(Protocol):
    """Where to look next."""

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return how many uniform numbers a step takes on images of `shape` (C, H, W)."""

    def start(self, center: FloatArray, signs: BoolArray) -> FloatArray:
        """Return where to begin, ``(n, C, H, W)``, given coins ``(n, C, H, W)`` of which any may be used."""

    def step(self, x: FloatArray, center: FloatArray, share: float, drawn: FloatArray) -> FloatArray:
        """Return a proposal near `x`, ``(n, C, H, W)``.

        Args:
            x: Best images so far, in the ball around `center`.
            center: The images under attack.
            share: p, the share of an image that a window covers, in (0, 1].
            drawn: Uniform numbers in [0, 1), ``(n, numbers)``.
        """


class LinfSquares:
    """Squares in which every channel goes to one side of the ball (algorithm 2)."""

    def __init__(self, epsilon: float) -> None:
        """Take the radius of the ball."""
        self._budget = Budget(epsilon=epsilon)

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Two for the place of the window, one for the sign of each channel."""
        return 2 + shape[0]

    def start(self, center: FloatArray, signs: BoolArray) -> FloatArray:
        """Vertical stripes, one pixel wide, each channel to a random side of the ball."""
        return self._to_sides(center, signs[:, :, :1])

    def step(self, x: FloatArray, center: FloatArray, share: float, drawn: FloatArray) -> FloatArray:
        """A square whose signs are flipped where they would change nothing: such a query would be wasted."""
        side = window_side(share, x.shape)
        height, width = x.shape[2:]
        inside = _window(drawn[:, 0], side, height)[:, None, :, None] & _window(drawn[:, 1], side, width)[:, None, None]
        signs = drawn[:, 2:, None, None] < 0.5
        proposal = np.where(inside, self._to_sides(center, signs), x)
        same = np.flatnonzero((proposal == x).reshape(len(x), -1).all(axis=1))
        proposal[same] = np.where(inside[same], self._to_sides(center[same], ~signs[same]), x[same])
        return proposal

    def _to_sides(self, center: FloatArray, up: BoolArray) -> FloatArray:
        radius = np.float32(self._budget.epsilon)
        return round_within(center + np.where(up, radius, -radius), center, self._budget)


class L2Squares:
    """Windows that take over the length of change of other windows (algorithm 3)."""

    def __init__(self, epsilon: float) -> None:
        """Take the radius of the ball."""
        self._budget = Budget(epsilon=epsilon, norm="l2")

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Four for the places of two windows, one for the orientation, one for the sign of each channel."""
        return 5 + shape[0]

    def start(self, center: FloatArray, signs: BoolArray) -> FloatArray:
        """A grid of 5 × 5 tiles of random signs, as long as the ball allows."""
        height, width = center.shape[2:]
        side = max(1, min(height, width) // _TILES)
        rows, columns = height // side, width // side
        grid = np.where(signs[:, :, :rows, :columns], np.float32(1), np.float32(-1))
        change = np.zeros_like(center)
        change[:, :, : rows * side, : columns * side] = np.kron(grid, tile(side))
        return self._fill(center, change)

    def step(self, x: FloatArray, center: FloatArray, share: float, drawn: FloatArray) -> FloatArray:
        """One window loses its change to another, which turns towards a tile of random sign and orientation."""
        side = window_side(share, x.shape, odd=True)
        gaining, losing = (_indices(drawn[:, i : i + 2], side, x.shape) for i in (0, 2))
        change = x - center
        spare = np.maximum(0, np.float32(self._budget.epsilon) ** 2 - lengths(change) ** 2)
        before = _lengths(change) ** 2
        held = change[gaining]
        change[losing] = 0
        change[gaining] = 0
        released = np.maximum(0, before - _lengths(change) ** 2) + per_image(spare / np.float32(x.shape[1]))
        bump = np.where(per_image(drawn[:, 4]) < 0.5, tile(side), tile(side).T)
        aim = np.where(drawn[:, 5:, None, None] < 0.5, bump, -bump) + _unit(held)
        change[gaining] = _unit(aim) * np.sqrt(released)
        return round_within(center + change, center, self._budget)

    def _fill(self, center: FloatArray, change: FloatArray) -> FloatArray:
        longest = np.float32(self._budget.epsilon) * change / per_image(np.maximum(lengths(change), _TINY))
        return round_within(center + longest, center, self._budget)


def window_side(share: float, shape: tuple[int, ...], *, odd: bool = False) -> int:
    """Return the side in pixels of a window that covers about `share` of an image of `shape` (..., H, W)."""
    height, width = shape[-2:]
    side = max(1, round(math.sqrt(share * height * width)))
    if odd:
        side = max(3, side + 1 - side % 2)
    return min(side, height, width)


def tile(side: int) -> FloatArray:
    """Return the tile of length 1 that L2 windows turn to, ``(side, side)``: a bump beside its negative.

    Source: Andriushchenko et al. 2020, equation 2 and the text below it.
    """
    half = side // 2
    both = np.concatenate([_bump(side, half), -_bump(side, side - half)], axis=1)
    unit: FloatArray = (both / np.linalg.norm(both)).astype(np.float32)
    return unit


def _bump(height: int, width: int) -> FloatArray:
    """Return η of equation 2, ``(height, width)``: rings whose weights fall with the square of the distance."""
    n = height // 2
    row, column = np.ogrid[1 : height + 1, 1 : width + 1]
    ring = n - np.maximum(np.abs(row - n - 1), np.abs(column - width // 2 - 1))
    sums = np.cumsum(1 / (n + 1 - np.arange(n + 1.0)) ** 2)
    bump: FloatArray = sums[ring].astype(np.float32)
    return bump


def _window(place: FloatArray, side: int, size: int) -> BoolArray:
    """Return which of `size` rows lie in a window at a uniform `place` in [0, 1), ``(n,)``, as ``(n, size)``."""
    first = np.floor(place * np.float32(size - side + 1))[:, None]
    inside: BoolArray = (np.arange(size) >= first) & (np.arange(size) < first + side)
    return inside


def _indices(place: FloatArray, side: int, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return the indices of a window at `place`, ``(n, 2)`` in [0, 1), that pick ``(n, C, side, side)``."""
    n, channels, height, width = shape
    first = np.floor(place * np.array([height - side + 1, width - side + 1], dtype=np.float32)).astype(np.int64)
    span = np.arange(side)
    return (
        np.arange(n)[:, None, None, None],
        np.arange(channels)[None, :, None, None],
        (first[:, :1] + span)[:, None, :, None],
        (first[:, 1:] + span)[:, None, None, :],
    )


def _lengths(change: FloatArray) -> FloatArray:
    """Return the L2 length of each channel, ``(n, C, 1, 1)``."""
    found: FloatArray = np.sqrt(np.einsum("nchw,nchw->nc", change, change))[:, :, None, None]
    return found


def _unit(change: FloatArray) -> FloatArray:
    length: FloatArray = np.maximum(_lengths(change), _TINY)
    return change / length
