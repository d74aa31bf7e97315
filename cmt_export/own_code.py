"""Failures of a person's own code, a trunk or its factory, in one line with the place."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from runtime.errors import UsageError, one_line

_OURS = (f"{Path(__file__).parent}/", importlib.__file__, torch.__path__[0], "<frozen")


@contextmanager
def explained(expected: str) -> Iterator[None]:
    """Run a person's own code, which may raise anything.

    Args:
        expected: What was expected of it, from "NAME: expected" on.

    Raises:
        UsageError: It failed, or ended the process.
    """
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{expected}, got: {_where(error)}") from error


def _where(error: BaseException) -> str:
    """Return an error in one line, with the last place that is not ours."""
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    place = f" in {theirs[-1].filename}, line {theirs[-1].lineno}" if theirs else ""
    return f"{type(error).__name__}{place}: {one_line(error)}"
