"""Work on a stream in several threads, a bounded way ahead, with the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def ordered_map(
    pool: ThreadPoolExecutor,
    work: Callable[[_In], _Out],
    stream: Iterable[_In],
    *,
    ahead: int,
    weigh: Callable[[_In], int] = lambda item: 0,
    most: int = 0,
) -> Generator[_Out, None, None]:
    """Yield ``work(item)`` for every item of a stream, in order.

    Args:
        pool: Threads to work in; what has not begun is cancelled when the caller stops early.
        work: What to do.
        stream: Read only as far ahead as the bounds allow.
        ahead: Items under way or waiting to be taken, at least 1.
        weigh: What one item weighs.
        most: What the items under way may weigh together; one alone may weigh more.
    """
    waiting: deque[tuple[Future[_Out], int]] = deque()
    weight = 0
    items = iter(stream)
    try:
        while True:
            while len(waiting) < ahead and (weight <= most or not waiting):
                for item in items:
                    waiting.append((pool.submit(work, item), weigh(item)))
                    weight += waiting[-1][1]
                    break
                else:
                    break
            if not waiting:
                return
            future, own = waiting.popleft()
            yield future.result()
            weight -= own
    finally:
        for future, _ in waiting:
            future.cancel()
