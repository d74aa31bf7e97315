"""Labelled images: the bundled digits, an image folder with ``train/`` and ``test/``, or an ``.npz``.

A folder is decoded once, by the code that `cmt score` decodes with, into a cache of plain ``.npy`` files that are
memory-mapped from then on. The cache key is every file's path, size and time of change; the cache lives under
``$CMT_CACHE``, else ``$XDG_CACHE_HOME/cmt``, else ``~/.cache/cmt``, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import CmtError, ImageError, UsageError
from runtime.images import decode, fit

Images = npt.NDArray[np.uint8]

MAX_IMAGE_PIXELS = 1 << 24
"""Most pixels a training image may have; checked before it is decoded."""

_CACHE_FORMAT = 1
_SPLITS = ("train", "test")
_SAMPLES_PER_CLASS = 8
_CHUNK = 1024


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
                f"{self.name}: expected the classes of {owner} ({_listed(classes)}), got {_listed(self.classes)}; "
                "use the data set it was made for"
            )

    def require_shape(self, input_shape: tuple[int, int, int], *, owner: str) -> None:
        """Raise `UsageError` unless every image has the ``(H, W, C)`` that `owner` takes."""
        if input_shape != self.input_shape:
            fitted = f"name the size: --size {_by(input_shape[:2])}"
            remedy = f"resize them, or {fitted}" if self.from_files else "choose other data"
            raise UsageError(
                f"{self.name}: expected images of {_by(input_shape)} as {owner} takes, got {_by(self.input_shape)}; "
                f"{remedy}"
            )


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
        return _folder(path, size)
    if not bundled and not (path.suffix == ".npz" and path.is_file()):
        raise UsageError(
            f"{path}: expected 'digits', a folder with train/ and test/, or an .npz file, got nothing usable"
        )
    if size is not None:
        raise UsageError(f"--size {_by(size)}: expected a folder of image files to fit, got {path}; leave it out")
    return _digits() if bundled else _npz(path)


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
        UsageError: A shape, dtype or label does not fit.
    """
    checked = {kind: _checked(f"{name}: {kind}", *arrays) for kind, arrays in zip(_SPLITS, (train, test), strict=True)}
    names = _numbered(f"{name}: train", checked["train"][1]) if classes is None else tuple(classes)
    if len(names) < 2 or len(set(names)) != len(names):
        raise UsageError(f"{name}: expected at least two distinct classes, got {_listed(names) or 'none'}")
    splits = {kind: _split(f"{name}: {kind}", len(names), *arrays) for kind, arrays in checked.items()}
    if splits["train"].images.shape[1:] != splits["test"].images.shape[1:]:
        raise UsageError(
            f"{name}: expected train and test images of one shape, got "
            f"{_by(splits['train'].images.shape[1:])} and {_by(splits['test'].images.shape[1:])}"
        )
    return Dataset(name=name, classes=names, train=splits["train"], test=splits["test"])


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
            f"{owner}: expected labels that count from 0 without a gap, got {_listed(map(str, present))}; number them "
            "so, or name every class in an array 'classes'"
        )
    return tuple(map(str, present))


def _split(owner: str, n_classes: int, images: Images, labels: npt.NDArray[np.integer[Any]]) -> Split:
    if labels.min() < 0 or labels.max() >= n_classes:
        raise UsageError(
            f"{owner}: expected labels in [0, {n_classes}), got {int(labels.min())} to {int(labels.max())}"
        )
    indices = labels.astype(np.int64)
    return Split(images=images, labels=indices, digest=_digest(images, indices))


def _digest(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> str:
    state = hashlib.sha256(json.dumps(images.shape).encode())
    for first in range(0, len(images), 4096):
        state.update(images[first : first + 4096].tobytes())
    state.update(labels.astype("<i8").tobytes())
    return state.hexdigest()


def _digits() -> Dataset:
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


def _npz(path: Path) -> Dataset:
    wanted = ("x_train", "y_train", "x_test", "y_test")
    try:
        # np.load leaves a file that is no zip open; one that is handed to it is closed here.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in wanted if key not in archive]
            if missing:
                raise UsageError(f"{path}: expected the arrays {_listed(wanted)}, got no {_listed(missing)}")
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


@dataclass(frozen=True)
class _File:
    path: Path
    label: int
    stamp: tuple[str, int, int]


def _folder(root: Path, size: tuple[int, int] | None) -> Dataset:
    classes = _class_names(root / "train")
    files = {kind: list(_files(root / kind, classes)) for kind in _SPLITS}
    for kind, found in files.items():
        if not found:
            raise UsageError(f"{root / kind}: expected <class>/<image file> below it, got no file")
    listing = json.dumps(
        [_CACHE_FORMAT, size, classes, {kind: [file.stamp for file in found] for kind, found in files.items()}],
        ensure_ascii=True,
    )
    key = hashlib.sha256(f"{root.resolve()}\0{listing}".encode("utf-8", "surrogateescape")).hexdigest()
    cached = _cache_root() / key[:32]
    if not cached.is_dir():
        _fill_cache(cached, files, size)
    try:
        splits = {kind: _cached_split(cached, kind) for kind in _SPLITS}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise CmtError(f"{cached}: expected a readable cache, got {error}; delete that folder and try again") from error
    return Dataset(name=str(root), classes=classes, train=splits["train"], test=splits["test"], from_files=True)


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of class folders, got none; a data set has train/ and test/")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if len(classes) < 2:
        raise UsageError(f"{folder}: expected at least two class folders, got {len(classes)}: {_listed(classes)}")
    return classes


def _files(folder: Path, classes: tuple[str, ...]) -> Iterator[_File]:
    known = _class_names(folder)
    unknown = sorted(set(known) - set(classes))
    if unknown:
        raise UsageError(f"{folder}: expected only the classes of train/, got {_listed(unknown)} too")
    for label, name in enumerate(classes):
        directory = folder / name
        if not directory.is_dir():
            continue
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                status = path.stat()
                stamp = (path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns)
                yield _File(path, label, stamp)


def _cache_root() -> Path:
    if named := os.environ.get("CMT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmt"


def _fill_cache(cached: Path, files: dict[str, list[_File]], size: tuple[int, int] | None) -> None:
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=cached.parent, prefix=".filling-"))
    except OSError as error:
        raise CmtError(f"{cached.parent}: expected a writable cache, got {error.strerror}; set CMT_CACHE") from error
    try:
        channels = _channels(files["train"])
        shape: tuple[int, int] | None = size
        for kind, found in files.items():
            shape = _decode_split(work, kind, found, channels, shape, fitted=size is not None)
        work.rename(cached)
    except OSError as error:
        if not cached.is_dir():
            raise CmtError(
                f"{cached.parent}: expected room for the cache, got {error.strerror}; set CMT_CACHE"
            ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _channels(files: list[_File]) -> int:
    """Return 1 when the first images of every class are grey, else 3."""
    by_class: dict[int, list[Path]] = {}
    for file in files:
        by_class.setdefault(file.label, []).append(file.path)
    samples = [path for paths in by_class.values() for path in paths[:_SAMPLES_PER_CLASS]]
    colour = (_decode(path, channels=3) for path in samples)
    return 1 if all((image == image[..., :1]).all() for image in colour) else 3


def _decode(path: Path, *, channels: int) -> Images:
    try:
        return decode(path, channels=channels, max_pixels=MAX_IMAGE_PIXELS)
    except ImageError as error:
        raise UsageError(f"{path}: expected an image, got: {error}; mend or remove the file") from error


def _decode_split(
    work: Path, kind: str, files: list[_File], channels: int, shape: tuple[int, int] | None, *, fitted: bool
) -> tuple[int, int]:
    """Decode one split into `work` and return the ``(H, W)`` that all its images have."""

    def read(file: _File) -> Images:
        image = _decode(file.path, channels=channels)
        return fit(image, height=shape[0], width=shape[1], resize="bilinear") if fitted and shape else image

    shape = shape or _by_two(_decode(files[0].path, channels=channels))
    images = np.lib.format.open_memmap(work / f"{kind}_images.npy", "w+", np.uint8, (len(files), *shape, channels))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            for row, (file, image) in enumerate(zip(chunk, pool.map(read, chunk), strict=True), start):
                if _by_two(image) != shape:
                    raise UsageError(
                        f"{file.path}: expected {_by(shape)} like {files[0].path.name}, got {_by(_by_two(image))}; "
                        f"resize it, or fit all to one size: --size {_by(shape)}"
                    )
                images[row] = image
    labels = np.array([file.label for file in files], np.int64)
    np.save(work / f"{kind}_labels.npy", labels)
    (work / f"{kind}.json").write_text(json.dumps({"digest": _digest(images, labels)}))
    return shape


def _by_two(image: Images) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _cached_split(cached: Path, kind: str) -> Split:
    return Split(
        images=np.load(cached / f"{kind}_images.npy", mmap_mode="r"),
        labels=np.load(cached / f"{kind}_labels.npy"),
        digest=json.loads((cached / f"{kind}.json").read_text())["digest"],
    )


def _listed(names: Iterable[str], most: int = 12) -> str:
    found = list(names)
    return ", ".join(found[:most]) + (f", … ({len(found)} in all)" if len(found) > most else "")


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
