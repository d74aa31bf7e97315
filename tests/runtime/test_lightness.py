"""The edge runtime loads numpy, onnxruntime and what those load, nothing heavier: seen after import and after use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPORT = """
import sys
def third_party():
    paths = {name.partition(".")[0]: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {name for name, path in paths.items() if path and "site-packages" in path}
"""
HEAVY = {"torch", "onnx", "onnxscript", "scipy", "sklearn", "matplotlib", "jinja2", "pandas", "pyarrow"}


def loaded(code: str, *arguments: object) -> set[str]:
    command = [sys.executable, "-c", REPORT + code + "\nprint(*sorted(third_party()))", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_and_classify_load_only_numpy_and_onnxruntime(model_path: Path) -> None:
    """Compared with loading those two alone, since which packages they pull in is theirs to decide."""
    bare = loaded("import numpy, onnxruntime")
    assert "runtime" not in bare
    assert loaded("import runtime") <= bare
    use = (
        "import numpy, pickle, runtime\n"
        "guard = runtime.Guard(sys.argv[1], device='cpu')\n"
        "verdicts = pickle.loads(pickle.dumps(guard)).classify(numpy.zeros((2, 6, 5, 1), numpy.uint8))\n"
        "list(verdicts), repr(verdicts), guard.warmup()\n"
    )
    assert loaded(use, model_path) <= bare


def test_files_add_pillow_alone(model_path: Path) -> None:
    use = "import runtime\nruntime.Guard(sys.argv[1], device='cpu').classify_files([sys.argv[1]])\n"
    assert loaded(use, model_path) <= loaded("import numpy, onnxruntime, PIL.Image")


@pytest.mark.parametrize("command", ["score", "info", "doctor", "bench"])
def test_a_command_is_light_until_it_runs(command: str) -> None:
    got = loaded(f"from runtime.cli import {command}")
    assert not got & (HEAVY | {"numpy", "onnxruntime", "PIL"})


def test_scoring_a_folder_loads_nothing_heavy(model_path: Path, tmp_path: Path) -> None:
    use = (
        "from runtime.cli import score\n"
        "try: score([sys.argv[1], sys.argv[2], '-o', sys.argv[3]], standalone_mode=False)\n"
        "except Exception as error: print(error)\n"
    )
    assert not loaded(use, model_path, tmp_path, tmp_path / "rows.csv") & HEAVY


def test_only_session_imports_onnxruntime() -> None:
    importing = [
        path.name
        for path in (ROOT / "runtime").glob("*.py")
        if any(
            line.strip().startswith(("import onnxruntime", "from onnxruntime"))
            for line in path.read_text().splitlines()
        )
    ]
    assert importing == ["session.py"]
