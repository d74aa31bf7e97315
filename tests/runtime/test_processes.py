"""One guard in many threads and processes. Each process test runs in a fresh interpreter, free of pytest's threads."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime import Guard, ModelError, UsageError
from tests.runtime.guard_files import Recipe, build, random_images

ROOT = Path(__file__).parents[2]
PRELUDE = """
import os, sys, threading
import numpy as np
from multiprocessing import get_context
from runtime import Guard
from tests.runtime.guard_files import Recipe, random_images

def answer(guard):
    return guard.classify(random_images(Recipe(), 8)).logits.tobytes()
"""


def run(code: str, *arguments: object, expect: int = 0) -> str:
    """Run code in a fresh interpreter with warnings shown as they are; return what it printed."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stderr
    return done.stdout


def test_16_threads_answer_as_one(model: bytes) -> None:
    guard = Guard(model, device="cpu", threads=2)
    batches = [random_images(Recipe(), 1 + seed % 9, seed) for seed in range(320)]
    serial = [guard.classify(batch).logits for batch in batches]
    with ThreadPoolExecutor(16) as pool:
        threaded = list(pool.map(lambda batch: guard.classify(batch).logits, batches))
    assert all(np.array_equal(one, other) for one, other in zip(serial, threaded, strict=True))


@pytest.mark.parametrize("as_bytes", [True, False], ids=["bytes", "path"])
def test_pickle_keeps_file_and_options(model: bytes, model_path: Path, as_bytes: bool) -> None:
    guard = Guard(model if as_bytes else model_path, device="cpu", threads=1)
    copy = pickle.loads(pickle.dumps(guard))
    images = random_images(Recipe(), 4)
    assert copy.digest == guard.digest
    assert np.array_equal(copy.classify(images).logits, guard.classify(images).logits)
    assert len(pickle.dumps(guard)) < 500 + len(model) * as_bytes


def test_pickle_insists_on_the_same_file(model_path: Path) -> None:
    pickled = pickle.dumps(Guard(model_path, device="cpu"))
    model_path.write_bytes(build(Recipe(seed=9)))
    with pytest.raises(ModelError, match="expected the pinned SHA-256"):
        pickle.loads(pickled)


def test_relative_path_survives_a_change_of_folder(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_path.parent)
    guard = Guard(model_path.name, device="cpu")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(guard)).digest == guard.digest


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pools(model_path: Path, method: str, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        PRELUDE + "if __name__ == '__main__':\n"
        f"    guard = Guard({str(model_path)!r}, device='cpu', threads=2)\n"
        "    with get_context(sys.argv[1]).Pool(2) as pool:\n"
        "        answers = pool.map(answer, [guard] * 4)\n"
        "    print(set(answers) == {answer(guard)})\n"
    )
    command = [sys.executable, script, method]
    done = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "True\n"


FORK = """
guard = Guard(sys.argv[1], device="cpu", threads=2)
before, parents = answer(guard), guard._session

def child(pipe):
    try:
        same = answer(guard) == before
        pipe.send((same, guard._session is parents, guard._session is None))
    except Exception as error:
        pipe.send(repr(error))

def fork():
    ours, theirs = get_context("fork").Pipe()
    process = get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    assert ours.poll(60), "the child hangs"
    received = ours.recv()
    process.join()
    return received
"""


def test_a_forked_child_starts_its_own_session(model_path: Path) -> None:
    code = FORK + "print(fork(), answer(guard) == before, guard._session is parents)"
    assert run(code, model_path) == "(True, False, False) True True\n"


def test_a_fork_while_other_threads_classify(model_path: Path) -> None:
    code = FORK + (
        "stop = threading.Event()\n"
        "def work():\n"
        "    while not stop.is_set(): answer(guard)\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "print([fork() for _ in range(5)] == [(True, False, False)] * 5)\n"
        "stop.set()\n"
    )
    assert run(code, model_path) == "True\n"


def test_a_forked_child_of_a_closed_guard_is_closed(model_path: Path) -> None:
    code = FORK + "guard.close(); print(fork())"
    assert "expected an open guard, got a closed one" in run(code, model_path)


def test_a_forked_child_insists_on_the_same_file(model_path: Path) -> None:
    code = FORK + "open(sys.argv[1], 'ab').write(b'x'); print(fork())"
    assert "expected the pinned SHA-256" in run(code, model_path)


class Interrupted(Guard):
    """A guard of a forked child in which, wherever `classify` looks, another thread opens the session right after."""

    interrupt_at = ""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == super().__getattribute__("interrupt_at"):
            self.interrupt_at = ""
            self._reopen()
        return value


@pytest.mark.parametrize("name", ["_pid", "_session"])
def test_a_thread_never_runs_the_session_of_the_parent_while_another_opens_one(model_path: Path, name: str) -> None:
    guard = Interrupted(model_path, device="cpu", threads=1)
    images = np.zeros((1, *guard.spec.input_shape), np.uint8)
    expected = guard.classify(images).logits
    guard._pid = -1  # as in a child
    guard._session = SimpleNamespace(run=lambda *arguments: pytest.fail("ran the session of the parent"))
    guard.interrupt_at = name
    assert np.array_equal(guard.classify(images).logits, expected)


def test_a_guard_closed_while_a_forked_child_opens_it_stays_closed(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(model_path, device="cpu", threads=1)
    images = np.zeros((1, *guard.spec.input_shape), np.uint8)
    guard._pid = -1  # as in a child
    monkeypatch.setattr("runtime.guard.check_golden", lambda verdicts, spec: guard.close())
    guard.classify(images)  # it ran already, so it finishes
    with pytest.raises(UsageError, match="expected an open guard, got a closed one"):
        guard.classify(images)


def test_many_threads_of_a_forked_child_share_one_session(model_path: Path) -> None:
    code = FORK + (
        "import runtime.guard as module\n"
        "def child(pipe):\n"
        "    starts, create = [], module.create_session\n"
        "    def counted(*args, **options):\n"
        "        starts.append(1)\n"
        "        return create(*args, **options)\n"
        "    module.create_session = counted\n"
        "    threads = [threading.Thread(target=answer, args=(guard,)) for _ in range(8)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
        "    pipe.send(len(starts))\n"
        "print(fork())\n"
    )
    assert run(code, model_path) == "1\n"


MEMORY = """
import resource
guard = Guard(sys.argv[1], device="cpu", threads=1)
images = random_images(Recipe(), 64)
def calls(n):
    for index in range(n):
        guard.classify(images[: 1 + index * 7 % 64])
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
start = calls(2000)
print((calls(98000) - start) // 1024)
"""


def test_memory_stays_flat(model_path: Path) -> None:
    assert int(run(MEMORY, model_path)) < 2048
