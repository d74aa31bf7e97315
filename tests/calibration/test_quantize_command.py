import json
import signal
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from calibration.quantize_command import quantize
from calibration.thresholds import CalibrationConfig, calibrate
from cmt_export.cli import main
from runtime.artifact import read_artifact
from runtime.errors import GateFailed, UsageError
from runtime.guard import Guard
from tests.calibration.conv_guards import dataset, guard_file

SMALL = ("--data", "data.npz", "-o", "int8.onnx", "-n", "150", "--images", "160", "--attacked", "20", "--threads", "1")


def save(data, path):
    np.savez(
        path,
        x_train=data.train.images,
        y_train=data.train.labels,
        x_test=data.test.images,
        y_test=data.test.labels,
        classes=np.array(data.classes),
    )


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a guard and data, as the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guard.onnx").write_bytes(guard_file())
    save(dataset(), tmp_path / "data.npz")
    return tmp_path


def run(*arguments):
    command = ["guard.onnx", *SMALL, *arguments]
    return CliRunner().invoke(quantize, command, catch_exceptions=False, prog_name="cmt quantize")


def test_writes_a_file_that_loads_and_says_what_moved(work):
    shown = run()
    lines = shown.stdout.splitlines()
    assert lines[0] == "quantised guard.onnx -> int8.onnx"
    assert sum(line.startswith("  try ") for line in lines) == 9
    assert any(line.startswith("  same verdict") and line.endswith("of 150 benign test images") for line in lines)
    assert sum(line.startswith("  fooled by") for line in lines) == 6
    assert lines[-1] == "next: cmt attack int8.onnx --data data.npz -n 150 --seed 0"
    assert "quantising, ranges by entropy" in shown.stderr
    with Guard("int8.onnx", device="cpu", threads=1) as guard:
        assert guard.spec.precision == "int8"


def test_json_without_attacks(work):
    facts = json.loads(run("--json", "--no-attack").stdout)
    assert facts["file"] == "int8.onnx"
    assert facts["bytes"] == [(work / name).stat().st_size for name in ("guard.onnx", "int8.onnx")]
    assert len(facts["trials"]) == 9
    assert facts["gate"]["shifts"] == []
    assert facts["gate"]["agreement"][0] >= 0.995
    assert read_artifact("int8.onnx").spec.recipe["quantization"]["method"] == facts["trials"][0]["method"]


def test_json_of_attacks(work):
    shifts = json.loads(run("--json").stdout)["gate"]["shifts"]
    assert {shift["attack"] for shift in shifts} == {"fgs", "pgd"}
    assert all(shift["holds"] for shift in shifts)


def test_a_threshold_is_shown(work):
    config = CalibrationConfig(acceptance=0.9, n=150)
    calibrated = calibrate(guard_file(), dataset(), config, device="cpu", threads=1)
    (work / "guard.onnx").write_bytes(calibrated.model)
    shown = run("--no-attack").stdout
    spec = read_artifact("int8.onnx").spec
    assert f"{calibrated.threshold} -> {spec.threshold}" in shown
    assert f"0.9 of correctly classified images, reaches {spec.calibration.reached:.4f}" in shown


def test_nothing_is_written_when_the_gate_fails(work):
    """Ranges from one black image: everything else saturates."""
    data = dataset()
    data.train.images[:] = 0
    save(data, "data.npz")
    with pytest.raises(GateFailed, match=r"expected the verdicts of the float file on 99.5% of 150 benign images"):
        run("--no-attack")
    assert sorted(path.name for path in work.iterdir()) == ["data.npz", "guard.onnx"]


def test_exit_code_of_a_failed_gate(work, monkeypatch, capsys):
    data = dataset()
    data.train.images[:] = 0
    save(data, "data.npz")
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["cmt", "quantize", "guard.onnx", *SMALL, "--no-attack"])
    with pytest.raises(SystemExit) as stopped:
        main()
    signal.signal(signal.SIGTERM, handler)
    assert stopped.value.code == 6
    assert capsys.readouterr().err.splitlines()[-1].startswith("cmt: quantize: expected the verdicts of the float file")


def test_refuses_to_replace_what_it_reads(work):
    with pytest.raises(UsageError, match=r"'guard.onnx': expected a file of its own, got one that is read"):
        run("-o", "guard.onnx")


def test_help_has_an_example():
    shown = CliRunner().invoke(quantize, ["--help"]).stdout
    assert "Example: cmt quantize guard.onnx --data mnist/ -o guard-int8.onnx" in " ".join(shown.split())
