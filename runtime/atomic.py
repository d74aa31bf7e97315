"""Output files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from runtime.causes import remedy
from runtime.errors import CmtError, UsageError


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str], *, within: Path | None = None) -> Iterator[Path]:
    """Give a temporary file in the same folder to write to, and move it to `path` when the block ends well.

    The content is on disk before the move, and the move before the return. When the block raises, the temporary file
    is removed and an older `path` stays as it was.

    Args:
        path: The file to write; an existing regular file is replaced, a link is followed.
        within: Another folder on the same disk for the temporary file.

    Yields:
        Path of the temporary file, empty, with the suffix of `path`.

    Raises:
        CmtError: `path` cannot be written: no such folder, no permission, disk full, not a regular file.
    """
    target = Path(os.path.realpath(path))
    temporary = (within or target.parent) / f".tmp-{secrets.token_hex(4)}-{target.name[-100:]}"
    try:
        _create(target, temporary)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield temporary
        _commit(temporary, target)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise  # something else failed inside the block
        raise unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Find out now, rather than after hours of work, whether `atomic_output` will be able to write `path`.

    Args:
        path: The file to write later; nothing is left there.
        *inputs: Files that the work reads and must not replace.

    Raises:
        UsageError: `path` is one of `inputs`.
        CmtError: As for `atomic_output`.
    """
    if any(os.path.realpath(path) == os.path.realpath(other) for other in inputs):
        raise UsageError(f"{str(path)!a}: expected a file of its own, got one that is read; name another with -o")
    with contextlib.suppress(_TrialOverError), atomic_output(path):
        raise _TrialOverError


def make_folder(path: str | os.PathLike[str], *, option: str) -> None:
    """Make an output folder, and those above it, unless it is there.

    Args:
        path: The folder.
        option: What the user named it with.

    Raises:
        UsageError: A file is there.
        CmtError: It cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{option} {str(path)!a}: expected a folder, got a file; name another") from None
    except OSError as error:
        raise unwritable(path, error) from None


class _TrialOverError(Exception):
    """Ends a trial of writing."""


def _create(target: Path, temporary: Path) -> None:
    mode = 0o666
    with contextlib.suppress(FileNotFoundError):
        status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(temporary))
        mode = stat.S_IMODE(status.st_mode)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))


def _commit(temporary: Path, target: Path) -> None:
    _sync(temporary, os.O_RDWR)
    os.replace(temporary, target)
    if hasattr(os, "O_DIRECTORY"):
        _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: str | os.PathLike[str], error: OSError) -> CmtError:
    """Return the one line for a file that cannot be written."""
    mend = remedy(error, "choose another place")
    return CmtError(f"{str(path)!a}: expected to write it, got: {error.strerror}; {mend}")
