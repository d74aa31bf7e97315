"""An image folder with ``train/<class>/<file>`` and ``test/<class>/<file>``, decoded once.

It is decoded by the code that `cmt score` decodes with, into a cache of plain ``.npy`` files that are memory-mapped
from then on. The cache key is every file's path, size and time of change; the cache lives under ``$CMT_CACHE``, else
``$XDG_CACHE_HOME/cmt``, else ``~/.cache/cmt``, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from calibration.datasets.dataset import SPLITS, Dataset, Images, Split, check_class_names, digest
from calibration.datasets.wording import by, listed
from runtime.errors import CmtError, ImageError, UsageError
from runtime.images import DEEP_GREY, decode, fit
from runtime.listing import list_files

MAX_IMAGE_PIXELS = 1 << 24
"""Most pixels a training image may have; checked before it is decoded."""

_CACHE_FORMAT = 2
_VISIBLE = "**/*"
_GREY_MODES = frozenset({"1", "L", "LA", *DEEP_GREY})
_CHUNK = 1024


@dataclass(frozen=True)
class _File:
    path: Path
    label: int
    stamp: tuple[str, int, int]


def read_folder(root: Path, size: tuple[int, int] | None) -> Dataset:
    """Return the images of a folder, from the cache where it was read before.

    Args:
        root: The folder.
        size: ``(H, W)`` that every image is fitted to; None takes them as they are, all of one size.

    Raises:
        UsageError: A class or an image cannot be used.
        CmtError: The cache cannot be written, or is damaged.
    """
    classes = _class_names(root / "train")
    files = {kind: list(_files(root / kind, classes)) for kind in SPLITS}
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
        splits = {kind: _cached_split(cached, kind) for kind in SPLITS}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise CmtError(f"{cached}: expected a readable cache, got {error}; delete that folder and try again") from error
    return Dataset(name=str(root), classes=classes, train=splits["train"], test=splits["test"], from_files=True)


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of class folders, got none; a data set has train/ and test/")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    check_class_names(str(folder), classes)
    if len(classes) < 2:
        raise UsageError(f"{folder}: expected at least two class folders, got {len(classes)}: {listed(classes)}")
    return classes


def _files(folder: Path, classes: tuple[str, ...]) -> Iterator[_File]:
    known = _class_names(folder)
    unknown = sorted(set(known) - set(classes))
    if unknown:
        raise UsageError(f"{folder}: expected only the classes of train/, got {listed(unknown)} too")
    for label, name in enumerate(classes):
        directory = folder / name
        if not directory.is_dir():
            continue
        for below in list_files(directory, pattern=_VISIBLE):
            path = directory / below
            try:
                status = path.stat()
            except OSError as error:
                raise UsageError(
                    f"{path}: expected an image, got: {error.strerror}; mend or remove the file"
                ) from error
            yield _File(path, label, (f"{name}/{below}", status.st_size, status.st_mtime_ns))


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
        channels = _channels(files)
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


def _channels(files: dict[str, list[_File]]) -> int:
    """Return 1 where every training image is grey, else 3; then the test images have to be grey as well."""
    if _first_coloured(files["train"]) is not None:
        return 3
    if (coloured := _first_coloured(files["test"])) is not None:
        raise UsageError(f"{coloured}: expected a grey image as all of train/ are, got a coloured one; make it grey")
    return 1


def _first_coloured(files: list[_File]) -> Path | None:
    """Return a file whose red, green and blue differ somewhere, if there is one."""

    def coloured(file: _File) -> bool:
        if _stored_grey(file.path):
            return False
        image = _decode(file.path, channels=3)
        return not (image == image[..., :1]).all()

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            for file, found in zip(chunk, pool.map(coloured, chunk), strict=True):
                if found:
                    return file.path
    return None


def _stored_grey(path: Path) -> bool:
    """Whether a file says in its first bytes that it holds no colours; nothing is decoded."""
    try:
        with PIL.Image.open(path) as image:
            return image.mode in _GREY_MODES
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        return False


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
                        f"{file.path}: expected {by(shape)} like {files[0].path.name}, got {by(_by_two(image))}; "
                        f"resize it, or fit all to one size: --size {by(shape)}"
                    )
                images[row] = image
    labels = np.array([file.label for file in files], np.int64)
    np.save(work / f"{kind}_labels.npy", labels)
    (work / f"{kind}.json").write_text(json.dumps({"digest": digest(images, labels)}))
    return shape


def _by_two(image: Images) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _cached_split(cached: Path, kind: str) -> Split:
    return Split(
        images=np.load(cached / f"{kind}_images.npy", mmap_mode="r"),
        labels=np.load(cached / f"{kind}_labels.npy"),
        digest=json.loads((cached / f"{kind}.json").read_text())["digest"],
    )
