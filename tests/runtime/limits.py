"""A machine that has run out of something, by limits of the process."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

ROOT = Path(__file__).parents[2]


@contextmanager
def limited(limit: int, amount: int) -> Iterator[None]:
    """Lower a limit of this process inside the block.

    For a few lines only, and in no fixture: pytest writes to a file too, between a fixture and its end.
    """
    before = resource.getrlimit(limit)
    resource.setrlimit(limit, (amount, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(limit, before)


def without_descriptors(setup: str, attempt: str, *arguments: object) -> str:
    """Run code in a process of its own that has no file descriptor left, and return what it prints.

    Args:
        setup: Lines to run before.
        attempt: Lines whose exception is printed, its type first.
        arguments: What `sys.argv[1:]` is.
    """
    code = (
        f"import resource, sys\n{setup}\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        f"try:\n{indent(attempt, '    ')}\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
