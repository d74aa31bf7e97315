"""What a guard holds while its session is built: nothing of the file beyond what ONNX Runtime copied."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.runtime.guard_files import Recipe, build

ROOT = Path(__file__).parents[2]
BARE = "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
GUARD = "guard = Guard(sys.argv[1], device='cpu')"
PEAK = """
import sys, numpy, onnxruntime
from runtime import Guard
{}
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""


def peak(code: str, model: Path) -> int:
    """Return the peak resident memory of a fresh process, in bytes."""
    command = [sys.executable, "-c", PEAK.format(code), str(model)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return 1024 * int(done.stdout)


def test_the_file_is_let_go_before_the_session_is_built(tmp_path: Path) -> None:
    """The weights take 8 MB: libraries and checks have their room beside them, another copy of the file has not."""
    model = tmp_path / "guard.onnx"
    model.write_bytes(build(Recipe(height=512, width=512)))
    size = model.stat().st_size
    assert size > 8 << 20
    assert peak(GUARD, model) - peak(BARE, model) < size
