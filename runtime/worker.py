"""A worker process: a guard of its own that scores the blocks it is sent.

It is a child that reads requests on standard input and answers on standard output, both pickled, until its parent
closes the pipe or is gone. A file that crashes a decoder ends this process and not the job.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

from runtime.blocks import Block
from runtime.causes import MORE_PROCESSES, remedy
from runtime.errors import CmtError
from runtime.guard import Guard
from runtime.inputs import Item
from runtime.tasks import Scored, Task, score_block, try_decoding

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from runtime.worker import serve; serve()"


class DiedError(Exception):
    """The worker ended without an answer."""


class Worker:
    """A child process that scores blocks; several threads may ask at once, so that it never waits for work."""

    def __init__(self, guard: Guard, task: Task) -> None:
        """Keep what the child is to load; it starts with the first block."""
        self._hello = pickle.dumps((pickle.dumps(guard), task))
        self._sending = threading.Lock()
        self._changing = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process that scores, once there is one."""
        return None if self._child is None else self._child.process.pid

    def score(self, block: Block) -> Scored:
        """Score a block; one that ends the process is tried again without the files that do.

        Raises:
            CmtError: What the child raised, it cannot be started, or ends without any single file being to blame.
        """
        try:
            with self._sending:
                answer = self._running().ask(block)
            scored: Scored = answer.result()
        except DiedError:
            with self._sending:
                scored = self._score_alone(block)
        return scored

    def close(self) -> None:
        """End the child at once."""
        with self._changing:
            self._closed = True
            if self._child is not None:
                self._child.end()

    def _score_alone(self, block: Block) -> Scored:
        """Score a block with nobody else asking: whatever happens is this block's doing."""
        if self._child is not None:
            self._child.finish()
        try:
            return self._ask_alone(block)
        except DiedError:
            crashing = frozenset(index for index, item in enumerate(block.items) if not self._survives(item))
        try:
            return self._ask_alone(replace(block, crashing=crashing))
        except DiedError:
            raise CmtError(
                f"{block.items[0].key!a} and the {len(block.items) - 1} files after it: expected rows, got a worker"
                " that ends, as it does when memory is short; use fewer --threads or a smaller --batch"
            ) from None

    def _survives(self, item: Item) -> bool:
        try:
            self._running().ask(item).result()
        except DiedError:
            return False
        return True

    def _ask_alone(self, block: Block) -> Scored:
        scored: Scored = self._running().ask(block).result()
        return scored

    def _running(self) -> _Child:
        with self._changing:
            if self._closed:
                raise CmtError("expected a worker at work, got one that was told to end")
            if self._child is None or self._child.ended:
                if self._child is not None:
                    self._child.end()
                self._child = _Child(self._hello)
            return self._child


class _Child:
    """A process, the requests it has not answered yet, and a thread that reads its answers.

    Attributes:
        process: The process.
        ended: Whether it answers no more.
    """

    def __init__(self, hello: bytes) -> None:
        self.process = _spawn()
        self.ended = False
        self._waiting: deque[Future[Any]] = deque()
        self._changing = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="cmt-read", daemon=True)
        try:
            self._reader.start()
        except RuntimeError as error:  # how Python says that the system gives no thread
            self._stop()
            self._close()
            raise CmtError(f"a worker: expected a thread to read from it, got: {error}; {MORE_PROCESSES}") from None
        self._write(hello)

    def ask(self, request: Block | Item) -> Future[Any]:
        """Send a request; one thread at a time may.

        Raises:
            DiedError: The process has ended; the future raises it too.
        """
        answer: Future[Any] = Future()
        with self._changing:
            if self.ended:
                raise DiedError
            self._waiting.append(answer)
        self._write(pickle.dumps(request))
        return answer

    def finish(self) -> None:
        """Wait until everything is answered."""
        wait(list(self._waiting))

    def end(self) -> None:
        """End the process, and wait until it has."""
        self._stop()
        self._reader.join()
        self._close()

    def _stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was not sent stays unsent
                pipe.close()

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):  # that it is gone shows where answers are read
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                answer = pickle.load(self.process.stdout)
            except (EOFError, pickle.UnpicklingError, OSError, ValueError):
                break
            with self._changing:
                asked = self._waiting.popleft()
            if isinstance(answer, BaseException):
                asked.set_exception(answer)
            else:
                asked.set_result(answer)
        self.process.kill()
        with self._changing:
            self.ended = True
            left, self._waiting = self._waiting, deque()
        for asked in left:
            asked.set_exception(DiedError())


def _spawn() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print what hostile files make them print
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # numpy starts a thread per processor otherwise
        )
    except OSError as error:
        raise CmtError(
            f"a worker: expected to start its process, got: {error.strerror}; {remedy(error, MORE_PROCESSES)}"
        ) from None


def serve() -> None:
    """Be a worker until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that prints may break into the answers
    pickled, task = pickle.load(requests)
    guard: Guard | CmtError
    try:
        guard = pickle.loads(pickled)
    except CmtError as error:
        guard = error
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        _answer(answers, guard if isinstance(guard, CmtError) else _respond(guard, request, task))


def _respond(guard: Guard, request: Block | Item, task: Task) -> object:
    try:
        if isinstance(request, Block):
            return score_block(guard, request, task)
        try_decoding(guard, request)
        return None
    except CmtError as error:
        return error
    except MemoryError:
        raise
    except Exception:  # a mistake of ours: the parent is to show where
        return RuntimeError(traceback.format_exc())


def _answer(answers: BinaryIO, answer: object) -> None:
    pickle.dump(answer, answers)
    answers.flush()
