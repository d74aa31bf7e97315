"""The confusion matrix that a Classmap was estimated from, as shaded cells or, for many classes, as a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.report.gallery import data_address
from calibration.results.records import ModelRecord

LARGEST_TABLE = 20
"""Classes up to which every figure is printed."""
LEVELS = 6
"""Shades besides none."""


@dataclass(frozen=True, kw_only=True)
class Shade:
    """One entry.

    Attributes:
        share: Share of the row, in [0, 1].
        level: 0 to `LEVELS`, relative to the largest entry off the diagonal.
        own: Whether it is on the diagonal.
        partner: Whether the column is the robust class of the row.
    """

    share: float
    level: int
    own: bool
    partner: bool


@dataclass(frozen=True, kw_only=True)
class ConfusionTable:
    """What a report shows of a confusion matrix.

    Attributes:
        rows: One row for each true class; empty for more than `LARGEST_TABLE` classes.
        picture: The same as ``data:`` address of a picture, dark where large, for more classes.
        counted: Whether predictions were counted; otherwise softmax mass was averaged.
        images: How many attacked images it was estimated on; None if that is not known.
    """

    rows: tuple[tuple[Shade, ...], ...]
    picture: str | None
    counted: bool
    images: int | None


def confusion_table(model: ModelRecord) -> ConfusionTable | None:
    """Return the matrix in ``training.classmap.confusion``; None without a Classmap or a matrix that fits it."""
    record = model.training.get("classmap")
    if model.classmap is None or not isinstance(record, dict):
        return None
    matrix = _matrix(record.get("confusion"), len(model.classes))
    if matrix is None:
        return None
    off_diagonal = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    shades = np.clip(off_diagonal / max(float(off_diagonal.max()), 1e-12), 0, 1)
    images = record.get("images")
    large = len(matrix) > LARGEST_TABLE
    return ConfusionTable(
        rows=() if large else _rows(matrix, np.rint(shades * LEVELS).astype(int), model.classmap),
        picture=data_address(np.rint(255 * (1 - shades)).astype(np.uint8)) if large else None,
        counted=record.get("counts") is True,
        images=images if type(images) is int else None,
    )


def _matrix(values: object, k: int) -> npt.NDArray[np.float64] | None:
    """Return K rows of K finite numbers; the training record is free-form, so anything else may stand there."""
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return matrix if matrix.shape == (k, k) and np.isfinite(matrix).all() else None


def _rows(
    matrix: npt.NDArray[np.float64], levels: npt.NDArray[np.int_], classmap: tuple[int, ...]
) -> tuple[tuple[Shade, ...], ...]:
    return tuple(
        tuple(
            Shade(share=float(share), level=int(levels[i, j]), own=i == j, partner=classmap[i] == j)
            for j, share in enumerate(row)
        )
        for i, row in enumerate(matrix)
    )
