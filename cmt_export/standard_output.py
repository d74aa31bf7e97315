"""Standard output that fails in one line: on a full disk, say, also for what Python would write only as it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO, cast

from runtime.causes import remedy
from runtime.errors import CmtError


@contextmanager
def checked_output() -> Iterator[None]:
    """Have what is printed in the block raise `CmtError` where it cannot be written, and leave nothing for the end.

    A reader that is gone stays a `BrokenPipeError`: it has seen enough.
    """
    stream = sys.stdout
    if stream is None:  # the process was started without one
        yield
        return
    try:
        with redirect_stdout(cast(TextIO, _Checked(stream))):
            yield
    finally:
        _settle(stream)


class _Checked:
    """A text stream whose errors are lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _explained():
            return self._stream.write(text)

    def flush(self) -> None:
        with _explained():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        mend = remedy(error, "free some space, or send it elsewhere")
        raise CmtError(f"standard output: expected to write it, got: {error.strerror}; {mend}") from None


def _settle(stream: TextIO) -> None:
    """Let go of what cannot be written: Python would try once more as it ends, and show where in its own code."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
