"""Which data set a name stands for."""

from __future__ import annotations

import os
from pathlib import Path

from calibration.datasets.arrays import read_digits, read_npz
from calibration.datasets.dataset import Dataset
from calibration.datasets.folders import read_folder
from calibration.datasets.wording import by
from runtime.errors import UsageError


def load_dataset(source: str | os.PathLike[str], *, size: tuple[int, int] | None = None) -> Dataset:
    """Load ``digits``, a folder with ``train/<class>/<file>`` and ``test/<class>/<file>``, or an ``.npz``.

    Args:
        source: The word ``digits``, or a path. An ``.npz`` holds ``x_train``, ``y_train``, ``x_test``, ``y_test``
            (images uint8 ``(N, H, W)`` or ``(N, H, W, C)``, labels integers) and may hold ``classes``, a list of text;
            without it labels count from 0, each with a training image.
        size: ``(H, W)`` that every image file is fitted to; only for a folder. Without it all must have one size.

    Raises:
        UsageError: The source is missing, empty, has one class only, or holds an image that cannot be used; or it is no
            folder and `size` is given.
    """
    bundled, path = os.fspath(source) == "digits", Path(source)
    if path.is_dir() and not bundled:
        return read_folder(path, size)
    if not bundled and not (path.suffix == ".npz" and path.is_file()):
        raise UsageError(
            f"{path}: expected 'digits', a folder with train/ and test/, or an .npz file, got nothing usable"
        )
    if size is not None:
        raise UsageError(f"--size {by(size)}: expected a folder of image files to fit, got {path}; leave it out")
    return read_digits() if bundled else read_npz(path)
