"""Several processes at one work folder, on one machine or on several that share a disk: none does another's unit."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from runtime.atomic import unwritable
from runtime.errors import CmtError

Claim = Callable[[str], AbstractContextManager[bool]]
"""Takes the key of a unit; the block has it to itself where it is given True."""

_OFFSET_DIGITS = 15
"""Hexadecimal digits of a key that say which byte of the file stands for it: an offset has 63 bits."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a disk without a lock service answers."""


@contextmanager
def sharing(path: Path) -> Iterator[Claim]:
    """Let a process claim units of a work folder; the operating system lets go of them however the process ends.

    Where the system or the disk has no such locks every claim is granted: one process at a time, then.

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
    byte = int(key[:_OFFSET_DIGITS], 16)
    locked = _lock(file, byte)
    try:
        yield locked is not False
    finally:
        if locked:
            _unlock(file, byte)


def _lock(file: int, byte: int) -> bool | None:
    """Return whether a byte could be locked; None where there are no locks."""
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    except ImportError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise CmtError(f"--work: expected to lock a file there, got: {error.strerror}; choose another place") from None
    return True


def _unlock(file: int, byte: int) -> None:
    import fcntl

    fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)
