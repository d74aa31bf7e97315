"""The adversarial saliency map over pairs of pixels, and its greatest entry without looking at every pair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_MOST_PAIRS = 1 << 21
"""Pairs held in memory at a time, unless one image alone has more; 2 million take 40 MB."""


class Pairs(NamedTuple):
    """The best pair of each image: two places in [0, D), each ``(n,)``, and whether there is such a pair, ``(n,)``."""

    first: IntArray
    second: IntArray
    found: BoolArray


def best_pairs(wanted: FloatArray, unwanted: FloatArray, allowed: BoolArray) -> Pairs:
    """Return the two pixels p ≠ q with the greatest saliency S(p, q) = (a_p + a_q)·(c_p + c_q), both sums positive.

    a is what a pixel adds to the target, c what it takes from all other classes together. Only pixels that fewer than
    two others dominate (have at least their a and at least their c) are paired, and still the result is exact: say p
    of a pair (p, q) has two dominators before it in the order of falling a. One of them, d, is not q. Neither sum gets
    smaller with d in the place of p, in float32 too, as rounding keeps order: (d, q) is feasible whenever (p, q) is,
    and its S is no smaller. Each such exchange goes forward in the order, so they end, with two pixels that were
    paired. Of D independent pixels about 2·ln D are left, 13 of 784 (5 on the network of Table 1), so that 80 pairs
    stand for 307,000 and the cost is that of sorting. At worst, where a and c fall against each other, none is dropped.

    Args:
        wanted: a, ``(n, D)`` float32.
        unwanted: −c, the change of all other classes together, ``(n, D)`` float32.
        allowed: Which pixels may be chosen, ``(n, D)``.

    Source: Papernot et al. 2016, algorithm 3 and equation 8; −α·β there, with α > 0 and β < 0.
    """
    a, c = wanted, -unwanted
    places, kept = _undominated(a, c, allowed)
    a, c = np.take_along_axis(a, places, axis=1), np.take_along_axis(c, places, axis=1)
    left, right, found = _best_of_all(a, c, kept)
    every = np.arange(len(places))
    return Pairs(places[every, left], places[every, right], found)


def _undominated(a: FloatArray, c: FloatArray, allowed: BoolArray) -> tuple[IntArray, BoolArray]:
    """Return the allowed pixels that fewer than two others dominate, ``(n, m)``, and which of these are no padding.

    In the order of falling a, a pixel has two dominators before it exactly where its c is at most the second largest c
    so far.
    """
    order = np.argsort(np.where(allowed, -a, np.inf), axis=1)
    sorted_c = np.where(np.take_along_axis(allowed, order, axis=1), np.take_along_axis(c, order, axis=1), -np.inf)
    before = np.full((len(c), 1), -np.inf, dtype=np.float32)
    largest = np.concatenate([before, np.maximum.accumulate(sorted_c, axis=1)[:, :-1]], axis=1)
    second = np.maximum.accumulate(np.minimum(sorted_c, largest), axis=1)
    second = np.concatenate([before, second[:, :-1]], axis=1)
    kept = sorted_c > second
    width = max(2, int(kept.sum(axis=1).max(initial=0)))
    first = np.argsort(~kept, axis=1, kind="stable")[:, :width]
    return np.take_along_axis(order, first, axis=1), np.take_along_axis(kept, first, axis=1)


def _best_of_all(a: FloatArray, c: FloatArray, kept: BoolArray) -> tuple[IntArray, IntArray, BoolArray]:
    """Return the places of the best of all pairs ``(n, m, m)`` of kept pixels, and whether there is one."""
    count, width = a.shape
    left, right = np.zeros((2, count), dtype=np.int64)
    found = np.zeros(count, dtype=np.bool_)
    upper = np.triu(np.ones((width, width), dtype=np.bool_), 1)
    for rows in _blocks(count, max(1, _MOST_PAIRS // width**2)):
        gain, loss = (part[rows, :, None] + part[rows, None, :] for part in (a, c))
        feasible = upper & kept[rows, :, None] & kept[rows, None, :] & (gain > 0) & (loss > 0)
        # In float64, where products of tiny float32 values do not underflow.
        saliency = np.where(feasible, np.multiply(gain, loss, dtype=np.float64), 0).reshape(len(gain), -1)
        best = saliency.argmax(axis=1)
        left[rows], right[rows] = np.divmod(best, width)
        found[rows] = saliency[np.arange(len(best)), best] > 0
    return left, right, found


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
