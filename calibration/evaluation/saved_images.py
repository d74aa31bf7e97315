"""Attacked images on the disk, those that fooled the guard and those that did not, each with what became of it.

Every attack gets a folder: ``index.csv``, one row for each image, and the images: PNG files where they were judged as
8-bit images, otherwise float pixels in one ``images.npz`` (``x_adv`` float32 ``(N, C, H, W)``, ``index``, ``labels``).
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from calibration.evaluation.target import Judged, Target
from calibration.results.phrasing import cell_name
from calibration.results.records import Cell
from calibration.results.resuming import key_of
from runtime.atomic import atomic_output, make_folder, unwritable
from runtime.errors import UsageError

COLUMNS = ("file", "index", "label", "answer", "accepted", "confidence", "outcome", "l2", "linf")
"""Of ``index.csv``; `index` is the place in the test split."""

_INDEX = "index.csv"


class ImageFolder:
    """Where attacked images go."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Make the folder.

        Args:
            path: The folder.
            resume: Whether it may hold images already.

        Raises:
            UsageError: It is no folder, or holds something and `resume` is False.
            CmtError: It cannot be made.
        """
        self._path = path
        make_folder(path, option="--save-images")
        try:
            taken = any(path.iterdir())
        except OSError as error:
            raise unwritable(path, error) from None
        if taken and not resume:
            raise UsageError(f"--save-images {path}: expected an empty or new folder, got files in it; choose another")

    def holds(self, cell: Cell) -> bool:
        """Return whether the images of an attack are all there."""
        return (self._folder(cell) / _INDEX).is_file()

    def keep(self, cell: Cell, judged: Judged, target: Target) -> None:
        """Write the images of one attack; the index comes last, and a folder without one counts for nothing.

        Raises:
            CmtError: They cannot be written.
        """
        folder = self._folder(cell)
        try:
            folder.mkdir(exist_ok=True)
            if target.eight_bit:
                for row, image in zip(target.sample, judged.images, strict=True):
                    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
                    picture.save(folder / _png_name(int(row)), format="PNG")
        except OSError as error:
            raise unwritable(folder, error) from None
        if not target.eight_bit:
            with atomic_output(folder / "images.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, x_adv=judged.pixels, index=target.sample, labels=target.truth)
        with atomic_output(folder / _INDEX) as temporary:
            temporary.write_text(_index(cell, judged, target), encoding="utf-8", newline="")

    def _folder(self, cell: Cell) -> Path:
        name = re.sub(r"[^a-z0-9.]+", "-", cell_name(cell).lower()).strip("-.")
        return self._path / f"{name}-{hashlib.sha256(key_of(cell).encode()).hexdigest()[:8]}"


def _index(cell: Cell, judged: Judged, target: Target) -> str:
    if cell.verdicts is None or cell.changes is None:
        raise ValueError("expected an attack that was just measured, got one without verdicts")
    outcomes = cell.verdicts.outcomes(target.truth)
    names = np.select([outcomes.fooled, outcomes.rejected], ["fooled", "rejected"], "correct")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    said, l2, linf = judged.verdicts, cell.changes.norm("l2"), cell.changes.norm("linf")
    for place, row in enumerate(target.sample.tolist()):
        file = _png_name(row) if target.eight_bit else "images.npz"
        accepted = "true" if said.accepted[place] else "false"
        answer = (int(target.truth[place]), int(said.labels[place]), accepted, f"{said.confidence[place]:.9g}")
        writer.writerow((file, row, *answer, names[place], f"{l2[place]:.9g}", f"{linf[place]:.9g}"))
    return text.getvalue()


def _png_name(row: int) -> str:
    return f"{row:06d}.png"
