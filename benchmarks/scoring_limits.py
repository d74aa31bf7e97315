"""What `scoring.py` compares with, each in processes that wait for one another before the clock runs.

Usage: scoring_limits.py decode MODEL FOLDER PROCESSES, run MODEL IMAGES PROCESSES THREADS, or score MODEL FOLDER
OUTPUT processes|threads|ray [WORKERS].
Prints one JSON document: images, seconds, and processor seconds while the clock ran.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WARM = 64
TICK = os.sysconf("SC_CLK_TCK")


def together(processes: int, prepare: Callable[[int], Callable[[], int]]) -> dict[str, float]:
    """Prepare in every process, then let all work at once; the clock stops with the last one."""
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(processes + 1), context.SimpleQueue()

    def work(index: int) -> None:
        job = prepare(index)
        ready.wait()
        before = time.process_time()
        images = job()
        answers.put((images, time.process_time() - before))

    children = [context.Process(target=work, args=(index,)) for index in range(processes)]
    for child in children:
        child.start()
    ready.wait()
    started = time.monotonic()
    told = [answers.get() for _ in children]
    wall = time.monotonic() - started
    for child in children:
        child.join()
    return {"images": sum(each[0] for each in told), "wall": wall, "cpu": sum(each[1] for each in told)}


def decode(model: str, folder: str, processes: int) -> dict[str, float]:
    """Decode and fit every file with our own code."""
    from runtime.artifact import read_artifact
    from runtime.images import read
    from runtime.listing import list_files

    spec = read_artifact(model).spec.input
    paths = [os.path.join(folder, name) for name in list_files(folder)]

    def prepare(index: int) -> Callable[[], int]:
        for path in paths[:WARM]:
            read(path, spec)
        return lambda: sum(1 for path in paths[index::processes] if read(path, spec) is not None)

    return together(processes, prepare)


def run(model: str, images: int, processes: int, threads: int) -> dict[str, float]:
    """Run a bare session on batches of 32."""

    def prepare(index: int) -> Callable[[], int]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        batch = np.random.default_rng(index).integers(0, 256, (32, *session.get_inputs()[0].shape[1:]), np.uint8)
        session.run(None, {"images": batch})

        def job() -> int:
            runs = images // processes // 32
            for _ in range(runs):
                session.run(None, {"images": batch})
            return 32 * runs

        return job

    return together(processes, prepare)


def score(model: str, folder: str, output: str, kind: str, workers: int = 0) -> dict[str, float]:
    """Score a folder as the command does; the clock runs from the first tenth of the rows to the last row on disk."""
    import runtime.score_command as command
    from runtime.cli import score as cmt_score

    seen: list[tuple[int, float, float]] = []
    total = sum(len(files) for _, _, files in os.walk(folder))

    @contextmanager
    def pace() -> Iterator[Callable[[int, int | None], None]]:
        def report(done: int, about: int | None) -> None:
            if (not seen and done >= total // 10) or done == total:
                seen.append((done, time.monotonic(), tree_seconds()))

        yield report

    command.pace = pace
    if kind == "threads":
        command._engine = lambda guard, processors: partial(command.in_threads, threads=processors)
    options = ["--engine", "ray"] if kind == "ray" else []
    options += ["--threads", str(workers)] if workers else []
    cmt_score([model, folder, "-o", output, *options], standalone_mode=False)
    (first, started, before), (last, ended, after) = seen[0], seen[-1]
    return {"images": last - first, "wall": ended - started, "cpu": after - before}


def tree_seconds() -> float:
    """Return the processor time of this process and its children, alive or ended."""
    spent = sum(os.times()[:4])
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # threads and children end while they are counted
            for child in (task / "children").read_text().split():
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                spent += (int(fields[11]) + int(fields[12])) / TICK
    return spent


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    known = {"decode": decode, "run": run, "score": score}
    print(json.dumps(known[what](*(int(each) if each.isdecimal() else each for each in arguments))))
