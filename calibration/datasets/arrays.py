"""Data sets that are arrays already: scikit-learn's digits, and an ``.npz``."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.datasets.dataset import Dataset, make_dataset
from calibration.datasets.wording import listed
from runtime.errors import UsageError


def read_digits() -> Dataset:
    """Return scikit-learn's digits as grey images of 8 x 8, 1,437 to train on and 360 to test on.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError(
            "digits: expected scikit-learn, got none; install the extra: pip install 'cmt[train]'"
        ) from error
    bundled = load_digits()
    images = np.round(bundled.images * (255 / 16)).astype(np.uint8)
    labels = bundled.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = np.sort(order[360:]), np.sort(order[:360])
    return make_dataset("digits", map(str, range(10)), (images[train], labels[train]), (images[test], labels[test]))


def read_npz(path: Path) -> Dataset:
    """Return the arrays of an ``.npz``, without unpickling anything.

    Raises:
        UsageError: An array is missing, or one does not fit.
    """
    wanted = ("x_train", "y_train", "x_test", "y_test")
    try:
        # np.load leaves a file that is no zip open; one that is handed to it is closed here.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in wanted if key not in archive]
            if missing:
                raise UsageError(f"{path}: expected the arrays {listed(wanted)}, got no {listed(missing)}")
            x_train, y_train, x_test, y_test = (archive[key] for key in wanted)
            named = archive.get("classes")
    except (ValueError, TypeError, OSError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: expected an .npz of plain arrays, got {error}; write it with numpy.savez") from error
    classes = None if named is None else _texts(f"{path}: classes", named)
    return make_dataset(str(path), classes, (x_train, y_train), (x_test, y_test))


def _texts(owner: str, names: npt.NDArray[Any]) -> list[str]:
    """Return an array of class names as text, also where another library stored it as bytes."""
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UsageError(
            f"{owner}: expected a list of text, got {names.dtype} {names.shape}; store one name for each class"
        )
    try:
        return [name.decode() if isinstance(name, bytes) else name for name in names.tolist()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{owner}: expected names in UTF-8, got {error.object!r}; store them as text") from None
