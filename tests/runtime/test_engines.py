"""Rows do not depend on who scores, and a worker that dies takes nothing with it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from runtime import CmtError, Guard, ModelError
from runtime.blocks import Block, Shard, cut
from runtime.engines import Engine, in_processes, in_threads
from runtime.inputs import Item
from runtime.ordered import ordered_map
from runtime.sinks import Columns
from runtime.tasks import Scored, Task, score_block
from runtime.worker import Worker, _Child
from tests.runtime.guard_files import Recipe, random_images
from tests.runtime.image_files import encode

IMAGES = random_images(Recipe(), 60)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Sixty inputs, every seventh without an image; some as bytes."""
    found = []
    for index, image in enumerate(IMAGES):
        data = b"" if index % 7 == 3 else encode(image[..., 0])
        path = tmp_path / f"{index:02}.png"
        path.write_bytes(data)
        found.append(Item(path.name, path.name, data if index % 5 == 0 else str(path)))
    return found


@pytest.fixture
def one_thread(model_path: Path) -> Iterator[Guard]:
    with Guard(model_path, device="cpu", threads=1) as guard:
        yield guard


def task_of(guard: Guard) -> Task:
    return Task(batch=4, suffix=".jsonl", columns=Columns(model=guard.digest, logits=True))


def blocks_of(items: list[Item]) -> Iterator[Block]:
    return cut(items, batch=4, shard=Shard())


def run(engine: Engine, guard: Guard, items: list[Item]) -> list[Scored]:
    return list(engine(guard, task_of(guard), blocks_of(items)))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("engine", [in_threads, in_processes])
def test_every_engine_gives_the_same_in_order(one_thread: Guard, items: list[Item], engine: Engine, count: int) -> None:
    chosen = partial(engine, **{"threads" if engine is in_threads else "processes": count})
    expected = [score_block(one_thread, block, task_of(one_thread)) for block in blocks_of(items)]
    assert run(chosen, one_thread, items) == expected


@pytest.mark.parametrize(("files", "started"), [(0, 0), (3, 1), (20, 3)])
def test_few_blocks_start_few_workers(
    one_thread: Guard, items: list[Item], monkeypatch: pytest.MonkeyPatch, files: int, started: int
) -> None:
    children = []

    class Counted(_Child):
        def __init__(self, hello: bytes) -> None:
            children.append(self)
            super().__init__(hello)

    monkeypatch.setattr("runtime.worker._Child", Counted)
    run(partial(in_processes, processes=3), one_thread, items[:files])
    assert len(children) == started


def test_a_worker_refuses_a_file_that_was_replaced(one_thread: Guard, items: list[Item], model_path: Path) -> None:
    model_path.write_bytes(b"another")
    with pytest.raises(ModelError, match=r"guard\.onnx"):
        run(partial(in_processes, processes=2), one_thread, items)


def test_a_worker_that_is_killed_takes_nothing_with_it(one_thread: Guard, items: list[Item]) -> None:
    worker = Worker(one_thread, task_of(one_thread))
    scored = []
    try:
        for block in blocks_of(items):
            scored.append(worker.score(block))
            assert worker.pid is not None
            if block.index % 4 == 0:
                os.kill(worker.pid, signal.SIGKILL)
    finally:
        worker.close()
    assert scored == [score_block(one_thread, block, task_of(one_thread)) for block in blocks_of(items)]


def test_several_may_ask_at_once_and_a_kill_hits_all(one_thread: Guard, items: list[Item]) -> None:
    worker = Worker(one_thread, task_of(one_thread))
    try:
        worker.score(next(blocks_of(items)))
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(3) as pool:
            under_way = [pool.submit(worker.score, block) for block in blocks_of(items)]
            os.kill(worker.pid, signal.SIGKILL)
            scored = [future.result() for future in under_way]
    finally:
        worker.close()
    assert scored == [score_block(one_thread, block, task_of(one_thread)) for block in blocks_of(items)]


CRASH = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
import runtime.images, runtime.tasks, runtime.worker
read = runtime.images.read
def crash(source, spec):
    data = source if isinstance(source, bytes) else open(source, "rb").read()
    if data == b"crash": os.abort()
    return read(source, spec)
runtime.tasks.read = crash
runtime.worker.serve()
"""


@pytest.mark.parametrize("files", [60, 18], ids=["many", "few"])
def test_a_file_that_crashes_the_decoder_gets_a_row(
    one_thread: Guard, items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    """A decoder with a hole is played by one that aborts on certain bytes."""
    monkeypatch.setattr("runtime.worker._START", CRASH)
    expected = run(partial(in_threads, threads=1), one_thread, [item for item in items[:files] if item.key != "17.png"])
    (tmp_path / "17.png").write_bytes(b"crash")
    scored = run(partial(in_processes, processes=2), one_thread, items[:files])
    lines = b"".join(block.encoded for block in scored).splitlines()
    assert b'"path": "17.png"' in lines[17]
    assert b'"reason": "unreadable"' in lines[17]
    assert lines[:17] + lines[18:] == b"".join(block.encoded for block in expected).splitlines()


def test_a_worker_that_always_dies_is_one_line(
    one_thread: Guard, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.worker._START", "import os, sys; sys.stdin.buffer.read(10); os.abort()")
    with pytest.raises(CmtError, match="expected rows, got a worker that ends, as it does when memory is short"):
        run(partial(in_processes, processes=2), one_thread, items)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, "use fewer --threads, or allow more open files with ulimit -n"),
        (errno.ENFILE, "end other programs, or allow the machine more open files"),
        (errno.EAGAIN, "use fewer --threads, or allow more processes with ulimit -u"),
        (errno.ENOMEM, "use fewer --threads, or end other programs"),
    ],
)
def test_a_worker_that_cannot_start_is_one_line(
    one_thread: Guard, items: list[Item], monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", fail)
    message = f"^a worker: expected to start its process, got: {os.strerror(number)}; {advice}"
    with pytest.raises(CmtError, match=message) as got:
        run(partial(in_processes, processes=2), one_thread, items)
    assert got.value.exit_code == 1


def test_a_worker_nobody_can_listen_to_is_one_line_and_ends(
    one_thread: Guard, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        if thread.name == "cmt-read":
            raise RuntimeError("can't start new thread")
        start(thread)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(CmtError, match=r"a worker: expected a thread .*, got: can't start new thread; use fewer"):
        run(partial(in_processes, processes=1), one_thread, items)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert not [child for child in children if b"runtime.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_mistake_of_ours_shows_where_it_is(
    one_thread: Guard, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(one_thread, task_of(one_thread))
    try:
        with pytest.raises(RuntimeError, match="AttributeError"):
            worker.score(Block(index=0, items=(3,)))  # type: ignore[arg-type]
    finally:
        worker.close()


def test_workers_end_with_those_who_asked(one_thread: Guard, items: list[Item]) -> None:
    scored = in_processes(one_thread, task_of(one_thread), blocks_of(items), processes=2)
    next(scored)
    scored.close()  # type: ignore[attr-defined]
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not [command for command in commands if b"runtime.worker" in command]


def test_a_stream_is_read_a_bounded_way_ahead() -> None:
    taken: list[int] = []

    def stream() -> Iterator[int]:
        for index in range(100):
            taken.append(index)
            yield index

    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda index: -index, stream(), ahead=5)
        assert next(results) == 0
        assert len(taken) == 5
        assert list(results) == [-index for index in range(1, 100)]
        heavy = ordered_map(pool, str, iter("abcdefgh"), ahead=5, weigh=lambda _: 10, most=25)
        assert list(heavy) == list("abcdefgh")
