"""Data sets that are arrays already: scikit-learn's digits, and an ``.npz``."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from calibration.datasets.dataset import Dataset, make_dataset
from calibration.datasets.wording import listed
from runtime.errors import UsageError, one_line


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
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            missing = [key for key in wanted if f"{key}.npy" not in members]
            if missing:
                raise UsageError(f"{path}: expected the arrays {listed(wanted)}, got no {listed(missing)}")
            x_train, y_train, x_test, y_test = (_array(archive, key) for key in wanted)
            named = _array(archive, "classes") if "classes.npy" in members else None
    except UsageError:
        raise
    except Exception as error:  # a foreign file can surface as anything in the readers of zip files and arrays
        got = "a single array" if _is_npy(path) else one_line(error)
        raise UsageError(f"{path}: expected an .npz of plain arrays, got {got}; write it with numpy.savez") from error
    classes = None if named is None else _texts(f"{path}: classes", named)
    return make_dataset(str(path), classes, (x_train, y_train), (x_test, y_test))


def _array(archive: zipfile.ZipFile, key: str) -> npt.NDArray[Any]:
    """Return an array of an archive once its header claims no more than is there."""
    member = archive.getinfo(f"{key}.npy")
    try:
        with archive.open(member) as file:
            claimed = _claimed_bytes(file)
        if claimed > member.file_size:
            raise ValueError(
                f"a header that claims {claimed:,} bytes ({claimed / 1e9:,.1f} GB) before {member.file_size:,} bytes"
            )
        with archive.open(member) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except (ValueError, MemoryError) as error:
        raise ValueError(f"{member.filename}: {error}") from error


def _claimed_bytes(file: IO[bytes]) -> int:
    """Return how many bytes of values a header announces; none for objects, which are not stored one by one."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"format version {version}")
    shape, _, dtype = readers[version](file)
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize


def _is_npy(path: Path) -> bool:
    magic = np.lib.format.MAGIC_PREFIX
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


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
