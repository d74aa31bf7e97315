"""What a command says where the machine gives no more files or threads: which limit, never where in the code."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
GUARD = "results/mnist/guard.onnx"
FILES = "use fewer --threads, or allow more open files with ulimit -n"
LIMITED = (
    "import resource, sys\n"
    "from cmt_export.cli import main\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
    "main()\n"
)
TOO_FEW = (  # how many are open until then depends on the machine
    "import os, resource, sys\n"
    "from cmt_export.cli import main\n"
    "from runtime import worker\n"
    "spawn, left = worker._spawn, int(sys.argv.pop(1))\n"
    "def spawn_within():\n"
    "    global left\n"
    "    if not left:\n"
    "        os.close(free := os.dup(2))\n"
    "        resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
    "    left -= 1\n"
    "    return spawn()\n"
    "worker._spawn = spawn_within\n"
    "main()\n"
)
NO_THREADS = (
    "import threading\n"
    "from cmt_export.cli import main\n"
    "def fail(thread): raise RuntimeError({message!r})\n"
    "threading.Thread.start = fail\n"
    "main()\n"
)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(200):
        Image.new("L", (28, 28), index).save(folder / f"{index}.png")
    return folder


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("enough_for", "threads", "who"),
    [(0, 1, "a worker: expected to start its process"), (3, 6, "expected to ")],  # who is first of six, nobody knows
)
def test_too_few_files_for_the_workers(images, tmp_path, enough_for, threads, who):
    arguments = ("score", GUARD, images, "-o", tmp_path / "rows.csv", "--batch", 2, "--threads")
    done = run(TOO_FEW, enough_for, *arguments, threads)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = done.stderr.splitlines()[-1]
    assert message.startswith("cmt: ")
    assert message.endswith(f", got: Too many open files; {FILES}")
    assert who in message
    assert not (tmp_path / "rows.csv").exists()
    assert run(TOO_FEW, 1, *arguments, 1).returncode == 0
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 201


def test_too_few_files_to_load_a_package():
    done = run(LIMITED, "info", GUARD)
    assert done.returncode == 1
    assert done.stderr.startswith("cmt: ")
    assert done.stderr.endswith(f"got: Too many open files; {FILES}\n")
    assert done.stderr.count("\n") == 1


def test_no_thread(images, tmp_path):
    code = NO_THREADS.format(message="can't start new thread")
    done = run(code, "score", GUARD, images, "-o", tmp_path / "rows.csv")
    assert (done.returncode, done.stderr) == (
        1,
        "scoring\ncmt: expected a machine with room, got: can't start new thread; use fewer --threads, or allow more"
        " processes with ulimit -u\n",
    )


def test_a_mistake_of_ours_still_shows_where_it_is(images, tmp_path):
    done = run(NO_THREADS.format(message="a mistake"), "score", GUARD, images, "-o", tmp_path / "rows.csv")
    assert "RuntimeError: a mistake" in done.stderr
    assert "Traceback" in done.stderr
