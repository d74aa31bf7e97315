"""Commands as a shell would run them, in a folder with a guard, its twin, a substitute and data."""

import signal
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from calibration.calibrate_command import calibrate
from calibration.cli import attack
from cmt_export.cli import main
from tests.calibration.guards import dataset, guard_file

ATTACK = ["attack", "guard.onnx", "--data", "data.npz", "-n", "50", "-a", "fgs"]
FAST = ["--device", "cpu", "--threads", "1"]


def fill(tmp_path):
    """Put a guard, its undefended twin, a substitute and data into a folder."""
    (tmp_path / "guard.onnx").write_bytes(guard_file())
    (tmp_path / "twin.onnx").write_bytes(guard_file(pair=False))
    (tmp_path / "substitute.onnx").write_bytes(guard_file(pair=False, sharpness=2.0))
    data = dataset()
    np.savez(
        tmp_path / "data.npz",
        x_train=data.train.images,
        y_train=data.train.labels,
        x_test=data.test.images,
        y_test=data.test.labels,
        classes=np.array(data.classes),
    )


def run(command, *arguments):
    return CliRunner().invoke(command, [*arguments], catch_exceptions=False, prog_name=f"cmt {command.name}")


def run_attack(*arguments):
    return run(attack, "guard.onnx", "--data", "data.npz", "-n", "50", *FAST, *arguments)


def run_calibrate(*arguments):
    return run(calibrate, "guard.onnx", "--data", "data.npz", "-n", "50", *FAST, *arguments)


def cmt(monkeypatch, *arguments):
    """Run the whole command and return its exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["cmt", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    signal.signal(signal.SIGTERM, handler)
    return stopped.value.code
