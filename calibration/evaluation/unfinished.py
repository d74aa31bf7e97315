"""What is done of an attack that is not finished, batch by batch beside the results: hours survive an interruption.

A batch that took `WORTH_KEEPING` seconds is written to ``<results>.parts/<key>/<first row>.npz``; the key is the
SHA-256 of everything that makes two runs of an attack the same. When the attack is finished its folder is removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from calibration.attacks.attack import Batch, Crafted
from calibration.results import Results
from runtime.atomic import atomic_output, make_folder

WORTH_KEEPING = 10.0
"""Seconds; a batch that took less is sooner made again than written."""

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class UnfinishedAttack:
    """The batches of one attack that are done.

    Attributes:
        seconds: How long those took that were taken over from an earlier run.
    """

    def __init__(self, folder: Path) -> None:
        """Look for them in `folder`, which may be missing, and write others there."""
        self.seconds = 0.0
        self._folder = folder

    def __call__(self, batch: Batch, craft: Callable[[], Crafted]) -> Crafted:
        """Return what came of a batch in an earlier run, else craft it and keep what came of it.

        Raises:
            CmtError: It cannot be written.
        """
        path = self._folder / f"{batch.rows[0]}.npz"
        found = _read(path, batch)
        if found is not None:
            crafted, seconds = found
            self.seconds += seconds
            return crafted
        started = time.perf_counter()
        crafted = craft()
        seconds = time.perf_counter() - started
        if seconds >= WORTH_KEEPING:
            make_folder(self._folder, option="-o")
            _write(path, batch, crafted, seconds)
        return crafted

    def discard(self) -> None:
        """Remove them: the attack is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # others are there, or none ever was
            self._folder.parent.rmdir()


class Unfinished:
    """The attacks of one run that are not finished.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        """Keep them below `folder`; what an earlier run left there is removed unless `resume` is True."""
        self.folder = folder
        if not resume:
            self.discard()

    def discard(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def found(self) -> bool:
        """Whether there are batches of an attack that is not finished."""
        return next(self.folder.glob("*/[0-9]*.npz"), None) is not None

    def attack(self, key: str, results: Results) -> UnfinishedAttack:
        """Return the batches of an attack.

        Args:
            key: Of the attack, by `resuming.cell_key`.
            results: What it is run for; its file, images and machine are part of what has to be the same.
        """
        data = results.data
        same = [key, results.model.sha256, data.digest, data.sample, data.seed, data.eight_bit]
        text = json.dumps([*same, dataclasses.asdict(results.environment)], sort_keys=True)
        return UnfinishedAttack(self.folder / hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest())


def _read(path: Path, batch: Batch) -> tuple[Crafted, float] | None:
    """Return what was kept of a batch and how long it took; None where it is missing, damaged or of another shape."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            x, gradients, queries, flat = (kept[name] for name in ("x", "gradients", "queries", "flat"))
            rows, seconds = kept["rows"], float(kept["seconds"])
    except _UNREADABLE:
        return None
    count = (len(batch.rows),)
    fits = (
        np.array_equal(rows, batch.rows)
        and (x.shape, x.dtype) == (batch.pixels.shape, np.float32)
        and (gradients.shape, queries.shape, flat.shape) == (count, count, count)
        and (gradients.dtype, queries.dtype, flat.dtype) == (np.int64, np.int64, np.bool_)
        and seconds >= 0
    )
    return (Crafted(x=x, gradients=gradients, queries=queries, flat=flat), seconds) if fits else None


def _write(path: Path, batch: Batch, crafted: Crafted, seconds: float) -> None:
    count = len(batch.rows)
    with atomic_output(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            x=crafted.x,
            gradients=np.broadcast_to(np.int64(crafted.gradients), count),
            queries=np.broadcast_to(np.int64(crafted.queries), count),
            flat=np.broadcast_to(np.bool_(crafted.flat), count),
            rows=batch.rows,
            seconds=seconds,
        )
