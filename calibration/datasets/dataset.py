"""Images with labels, in a split to train on and one to test on, checked when they are put together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.datasets.wording import by, listed
from runtime.errors import UsageError
from runtime.spec import is_text

Images = npt.NDArray[np.uint8]

SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 ``(N, H, W, C)``, possibly memory-mapped and read-only.
        labels: int64 ``(N,)``, in ``[0, K)``.
        digest: SHA-256 of shape, images and labels, hexadecimal.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    digest: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def sample(self, n: int, *, seed: int = 0) -> npt.NDArray[np.int64]:
        """Return the sorted indices of `n` images drawn without replacement, int64 ``(min(n, N),)``."""
        drawn = np.random.default_rng(seed).permutation(len(self))[:n]
        return np.sort(drawn).astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A training and a test split over the same classes.

    Attributes:
        name: What the user named, for messages and records.
        classes: K distinct class names; a label is an index into them.
        from_files: Whether its images come from image files, which ``--size`` fits; arrays stay as they are.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    from_files: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)`` of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def require_classes(self, classes: tuple[str, ...], *, owner: str) -> None:
        """Raise `UsageError` unless `owner`, a model or file, knows exactly these classes in this order."""
        if classes != self.classes:
            raise UsageError(
                f"{self.name}: expected the classes of {owner} ({listed(classes)}), got {listed(self.classes)}; "
                "use the data set it was made for"
            )

    def require_every_class(self, purpose: str) -> None:
        """Raise `UsageError` unless each class has a training image, as `purpose` needs."""
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        absent = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        if absent:
            raise UsageError(
                f"{self.name}: expected training images of every class, as {purpose} needs, got none of "
                f"{listed(absent)}; add some, or leave that class out"
            )

    def require_shape(self, input_shape: tuple[int, int, int], *, owner: str) -> None:
        """Raise `UsageError` unless every image has the ``(H, W, C)`` that `owner` takes."""
        if input_shape != self.input_shape:
            fits = self.from_files and self.input_shape[2] == input_shape[2]
            remedy = f"resize them, or name the size: --size {by(input_shape[:2])}" if fits else "choose other data"
            raise UsageError(
                f"{self.name}: expected images of {by(input_shape)} as {owner} takes, got {by(self.input_shape)}; "
                f"{remedy}"
            )


def make_dataset(
    name: str,
    classes: Iterable[str] | None,
    train: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    test: tuple[npt.NDArray[Any], npt.NDArray[Any]],
) -> Dataset:
    """Check arrays and wrap them as a `Dataset`.

    Args:
        name: What messages call it.
        classes: Class names; None names them by their labels, which then count from 0 without a gap.
        train: Images uint8 ``(N, H, W)`` or ``(N, H, W, C)`` and integer labels ``(N,)``.
        test: The same.

    Raises:
        UsageError: A shape, dtype, label or class name does not fit.
    """
    checked = {kind: _checked(f"{name}: {kind}", *arrays) for kind, arrays in zip(SPLITS, (train, test), strict=True)}
    names = _numbered(f"{name}: train", checked["train"][1]) if classes is None else tuple(classes)
    check_class_names(f"{name}: classes", names)
    if len(names) < 2 or len(set(names)) != len(names):
        raise UsageError(f"{name}: expected at least two distinct classes, got {listed(names) or 'none'}")
    splits = {kind: _split(f"{name}: {kind}", len(names), *arrays) for kind, arrays in checked.items()}
    if splits["train"].images.shape[1:] != splits["test"].images.shape[1:]:
        raise UsageError(
            f"{name}: expected train and test images of one shape, got "
            f"{by(splits['train'].images.shape[1:])} and {by(splits['test'].images.shape[1:])}"
        )
    return Dataset(name=name, classes=names, train=splits["train"], test=splits["test"])


def check_class_names(owner: str, names: Iterable[str]) -> None:
    """Raise `UsageError` unless `owner` gives every class a name that a guard file can hold."""
    wrong = [name for name in names if not is_text(name)]
    if wrong:
        raise UsageError(
            f"{owner}: expected names that are one line of text in UTF-8, got {listed(map(ascii, wrong))}; rename them"
        )


def _checked(
    owner: str, images: npt.NDArray[Any], labels: npt.NDArray[Any]
) -> tuple[Images, npt.NDArray[np.integer[Any]]]:
    """Return images ``(N, H, W, C)`` and integer labels ``(N,)``, N at least 1, whatever the labels stand for."""
    if images.ndim in (3, 4) and not len(images):
        raise UsageError(f"{owner}: expected at least one image, got none; add images and their labels")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape or images.shape[3] not in (1, 3):
        raise UsageError(
            f"{owner}: expected uint8 images (N, H, W[, 1 or 3]), got {images.dtype} {images.shape}; "
            "store decoded 8-bit pixels, not floats"
        )
    labels = labels.reshape(len(labels)) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(
            f"{owner}: expected {len(images)} integer labels, got {labels.dtype} {labels.shape}; "
            "number the classes from 0 and store the number of each image's"
        )
    return images, labels


def _numbered(owner: str, labels: npt.NDArray[np.integer[Any]]) -> tuple[str, ...]:
    """Return a name for every class where only the labels tell how many there are."""
    present = np.unique(labels).tolist()
    # Compared before anything is counted up to the largest label: one wrong label may be as large as its dtype allows.
    if (present[0], present[-1]) != (0, len(present) - 1):
        raise UsageError(
            f"{owner}: expected labels that count from 0 without a gap, got {listed(map(str, present))}; number them "
            "so, or name every class in an array 'classes'"
        )
    return tuple(map(str, present))


def _split(owner: str, n_classes: int, images: Images, labels: npt.NDArray[np.integer[Any]]) -> Split:
    if labels.min() < 0 or labels.max() >= n_classes:
        raise UsageError(
            f"{owner}: expected labels in [0, {n_classes}), got {int(labels.min())} to {int(labels.max())}"
        )
    indices = labels.astype(np.int64)
    return Split(images=images, labels=indices, digest=digest(images, indices))


def digest(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> str:
    """Return the SHA-256 of shape, images and labels, hexadecimal."""
    state = hashlib.sha256(json.dumps(images.shape).encode())
    for first in range(0, len(images), 4096):
        state.update(images[first : first + 4096].tobytes())
    state.update(labels.astype("<i8").tobytes())
    return state.hexdigest()
