"""The three rooms, proved in fresh processes: who imports what, and what works without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _python(code: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"torch", "onnx", "onnxruntime", "numpy", "scipy", "matplotlib", "sklearn", "PIL"}),
        (["--version"], {"torch", "onnx", "onnxruntime", "numpy"}),
        (["score", "--help"], {"torch", "onnx", "scipy", "matplotlib", "sklearn"}),
        (["attack", "--help"], {"torch", "sklearn"}),
    ],
    ids=["help", "version", "score", "attack"],
)
def test_a_command_imports_no_more_than_it_needs(arguments, absent):
    code = (
        f"import sys; sys.argv = ['cmt', *{arguments!r}]\n"
        "from cmt_export.cli import main\n"
        "try:\n main()\n"
        "except SystemExit as stop:\n assert not stop.code, stop.code\n"
        "print('loaded', *{name.partition('.')[0] for name in sys.modules})\n"
    )
    loaded = set(_python(code).splitlines()[-1].split())
    assert "loaded" in loaded
    assert not loaded & absent


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [("runtime", ["torch", "onnx", "scipy", "sklearn", "matplotlib", "calibration", "cmt_export"]),
     ("calibration", ["torch", "onnxscript", "cmt_export"])],
)  # fmt: skip
def test_a_room_works_where_its_neighbours_are_not_installed(room, forbidden):
    code = (
        "import importlib, pkgutil, sys\n"
        f"for name in {forbidden!r}: sys.modules[name] = None\n"
        f"room = importlib.import_module({room!r})\n"
        f"for module in pkgutil.walk_packages(room.__path__, {room + '.'!r}): importlib.import_module(module.name)\n"
    )
    _python(code)


def test_a_missing_extra_is_one_line():
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['cmt', 'train', 'digits', '-o', 'x.pt']\n"
        "from cmt_export.cli import main\n"
        "try:\n main()\n"
        "except SystemExit as stop:\n print(stop.code)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.stdout.strip() == "2"
    assert "pip install 'cmt[train]'" in process.stderr
