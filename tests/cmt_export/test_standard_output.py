"""What becomes of a command whose output cannot be written; each in a process of its own, which really ends."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUARD = "results/mnist/guard.onnx"
LINE = (
    "cmt: standard output: expected to write it, got: No space left on device; free some space, or send it elsewhere\n"
)
MAIN = "from cmt_export.cli import main; main()"
LEFT = "import cmt_export.cli as cli; cli.cmt.main = lambda **_: print('left in the buffer'); cli.main()"


def run(arguments, stdout, code=MAIN):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("info", GUARD), MAIN),
        (("info", GUARD, "--json"), MAIN),
        (("--help",), MAIN),
        (("train", "--help"), MAIN),
        (("--version",), MAIN),
        ((), LEFT),
        ((), LEFT.replace("buffer", "buffer' * 10_000 + '")),
    ],
    ids=["table", "json", "help", "long help", "version", "left for the end", "more than a buffer"],
)
def test_a_full_disk_is_one_line(arguments, code):
    with open("/dev/full", "w") as full:
        done = run(arguments, full, code)
    assert (done.returncode, done.stderr) == (1, LINE)


def test_rows_are_there_although_their_summary_is_not(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "none.png").touch()
    with open("/dev/full", "w") as full:
        done = run(["score", GUARD, tmp_path / "images", "-o", tmp_path / "rows.csv", "--threads", "1"], full)
    assert (done.returncode, done.stderr) == (1, "scoring\n" + LINE)
    assert "none.png" in (tmp_path / "rows.csv").read_text()


def test_a_reader_that_has_seen_enough_is_no_error_to_tell():
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "info", GUARD], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    with process:
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_no_standard_output_at_all():
    code = "import os, sys; os.close(1); sys.stdout = None; " + MAIN
    done = run(["info", GUARD], subprocess.DEVNULL, code)
    assert (done.returncode, done.stderr) == (0, "")
