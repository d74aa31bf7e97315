"""Finding out how much there is to do while it is being done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(count: Callable[[], int | None]) -> Iterator[Callable[[], int | None]]:
    """Count in a thread; what is handed out says the number, None until it is known.

    Nobody waits for the thread: it ends with the process at the latest.
    """
    found: list[int | None] = []
    threading.Thread(target=lambda: found.append(count()), name="cmt-count", daemon=True).start()
    yield lambda: found[0] if found else None
