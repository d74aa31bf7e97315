"""Which files of a folder get a row, in which order, and under which key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import UsageError
from runtime.sinks import FORMULA_STARTS

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def list_files(folder: Path, *, leave_out: Path | None = None) -> Iterator[Path]:
    """Yield everything in a folder that is no folder, recursively and in the order of the names' bytes.

    Links to folders are followed, except back into a folder they lie in. A subfolder that cannot be listed is yielded
    itself, so that it gets a row; so are broken links, pipes and devices.

    Args:
        folder: Where to look.
        leave_out: A file that gets no row: the output itself.

    Yields:
        Paths that start with `folder`.

    Raises:
        UsageError: `folder` is missing, no folder or cannot be listed.
    """
    try:
        names = _names(folder)
    except OSError as error:
        raise UsageError(
            f"{str(folder)!a}: expected a folder of images, got: {error.strerror}; check the path"
        ) from None
    hidden = None if leave_out is None else os.path.realpath(leave_out)
    for path in _walk(folder, names, (_identity(folder),)):
        if hidden is None or os.path.realpath(path) != hidden:
            yield path


def _walk(folder: Path, names: list[str], above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    for name in names:
        path = folder / name
        if not os.path.isdir(path):
            yield path
            continue
        try:
            inner, identity = _names(path), _identity(path)
        except OSError:
            yield path
            continue
        if identity not in above:
            yield from _walk(path, inner, (*above, identity))


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder), key=os.fsencode)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def key(path: Path, folder: Path) -> str:
    r"""Return the name of a file in its row: its path below `folder`, unique and safe to write anywhere.

    Slashes separate; a backslash is doubled; a byte that is no UTF-8 becomes ``\xNN``, and so does a control
    character (``\uNNNN`` beyond ASCII), so that a key is one line; a name that a spreadsheet would run as a formula
    starts with ``./``, which names the same file.
    """
    relative = path.relative_to(folder).as_posix().replace("\\", "\\\\")
    name = CONTROL.sub(_escape, os.fsencode(relative).decode("utf-8", "backslashreplace"))
    return "./" + name if name.startswith(FORMULA_STARTS) else name


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
