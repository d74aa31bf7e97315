"""Several processes at one work folder, on one machine or on several that share a disk: none does another's unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from runtime.atomic import unwritable

Claim = Callable[[str], AbstractContextManager[bool]]
"""Takes the key of a unit; the block has it to itself where it is given True."""

_OFFSET_DIGITS = 15
"""Hexadecimal digits of a key that say which byte of the file stands for it: an offset has 63 bits."""


@contextmanager
def sharing(path: Path) -> Iterator[Claim]:
    """Let a process claim units of a work folder; the operating system lets go of them however the process ends.

    Where the system has no such locks every claim is granted: one process at a time, then.

    Args:
        path: The folder.

    Raises:
        CmtError: Nothing can be claimed there.
    """
    try:
        with open(path / "lock", "wb") as file:
            yield partial(_claim, file.fileno())
    except OSError as error:
        if error.filename != str(path / "lock"):
            raise
        raise unwritable(path / "lock", error) from None


@contextmanager
def _claim(file: int, key: str) -> Iterator[bool]:
    try:
        from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, lockf
    except ImportError:
        yield True
        return
    byte = int(key[:_OFFSET_DIGITS], 16)
    try:
        lockf(file, LOCK_EX | LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        lockf(file, LOCK_UN, 1, byte)
