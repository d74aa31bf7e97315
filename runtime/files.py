"""Opening a file that a stranger named, without ever waiting for it, and how large it may be."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO


class NotRegularError(OSError):
    """The path is a folder, a pipe, a socket or a device."""


def max_bytes(max_pixels: int) -> int:
    """Return how many bytes an image file of so many pixels may reasonably have: 16-bit RGBA, and 1 MiB."""
    return 8 * max_pixels + (1 << 20)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a link to one is followed.

    It is looked at before it is opened, as opening a device may already act on it, and again after, as it may have
    been replaced in between.

    Raises:
        NotRegularError: It is no regular file.
        OSError: It is missing or may not be read.
        ValueError: The path holds a null byte.
    """
    _check(os.stat(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    try:
        _check(os.fstat(descriptor))
    except NotRegularError:
        file.close()
        raise
    return file


def _check(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError("a folder, pipe, socket or device")
