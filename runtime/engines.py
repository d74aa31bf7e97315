"""Who scores the blocks: threads around one guard, or processes with a guard each; the rows are the same.

Measured with ``benchmarks/scoring.py`` (table in ``docs/scoring.md``): processes that decode and run by themselves,
on one thread each, share the processors without waiting for each other or for Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

from runtime.blocks import CUT_BYTES, Block
from runtime.guard import Guard
from runtime.ordered import ordered_map
from runtime.tasks import Scored, Task, score_block
from runtime.worker import Worker

Engine: TypeAlias = Callable[[Guard, Task, Iterator[Block]], Iterator[Scored]]
"""Scores blocks, and yields them in the order they came."""

_AHEAD = 16
"""Blocks per processor that may be under way or wait for an earlier one, or for a part to be on disk."""
_SENT = 4
"""Blocks a worker has at a time, so that it goes on while nobody has time to send it more."""


def in_threads(guard: Guard, task: Task, blocks: Iterator[Block], *, threads: int) -> Iterator[Scored]:
    """Score blocks in this process."""
    with ThreadPoolExecutor(threads, thread_name_prefix="cmt-score") as pool:
        yield from _ordered(pool, partial(_score, guard, task), blocks, threads)


def in_processes(guard: Guard, task: Task, blocks: Iterator[Block], *, processes: int) -> Iterator[Scored]:
    """Score blocks in worker processes, even a single one: a file that crashes its decoder must not end this process.

    A worker starts when the first block comes to it, so that few blocks start few of them.
    """
    workers = [Worker(guard, task) for _ in range(processes)]
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers * _SENT:
        free.put(worker)

    def score(block: Block) -> Scored:
        worker = free.get()
        try:
            return worker.score(block)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(_SENT * processes, thread_name_prefix="cmt-ask") as pool:
        try:
            yield from _ordered(pool, score, blocks, processes)
        finally:
            for worker in workers:
                worker.close()


def _ordered(
    pool: ThreadPoolExecutor, score: Callable[[Block], Scored], blocks: Iterator[Block], processors: int
) -> Iterator[Scored]:
    ahead = ordered_map(
        pool, score, blocks, ahead=_AHEAD * processors, weigh=lambda block: block.weight, most=CUT_BYTES
    )
    with closing(ahead) as scored:
        yield from scored


def _score(guard: Guard, task: Task, block: Block) -> Scored:
    return score_block(guard, block, task)
