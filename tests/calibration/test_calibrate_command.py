import json
import re

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from calibration.calibrate_command import calibrate
from calibration.stamping import stamp
from calibration.thresholds import CalibrationConfig
from calibration.thresholds import calibrate as calibrate_file
from runtime.artifact import read_artifact
from runtime.errors import UsageError
from tests.calibration.guards import dataset, guard_file


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with data, a guard, and the same guard calibrated, as the working directory."""
    monkeypatch.chdir(tmp_path)
    data = dataset()
    (tmp_path / "guard.onnx").write_bytes(guard_file())
    config = CalibrationConfig(acceptance=0.7, n=50)
    (tmp_path / "calibrated.onnx").write_bytes(
        calibrate_file(guard_file(), data, config, device="cpu", threads=1).model
    )
    np.savez(
        tmp_path / "data.npz",
        x_train=data.train.images,
        y_train=data.train.labels,
        x_test=data.test.images,
        y_test=data.test.labels,
        classes=np.array(data.classes),
    )
    return tmp_path


def run(file, *arguments):
    command = [file, "--data", "data.npz", "-n", "50", "--device", "cpu", "--threads", "1", *arguments]
    return CliRunner().invoke(calibrate, command, catch_exceptions=False, prog_name="cmt calibrate")


@pytest.mark.parametrize("output", [(), ("-o", "other.onnx")], ids=["in place", "to another file"])
def test_a_calibrated_file_is_not_calibrated_again_unasked(work, output):
    before = (work / "calibrated.onnx").read_bytes()
    data = read_artifact(before).spec.calibration.data[:12]
    message = (
        rf"calibrated\.onnx: expected a file without a threshold, got one calibrated for 0\.7 on 190 images \({data}\)"
    )
    with pytest.raises(UsageError, match=message + r", reaching 0\.7\d+; --force sets it anew") as caught:
        run("calibrated.onnx", "--accept", "0.8", *output)
    assert caught.value.exit_code == 2
    assert (work / "calibrated.onnx").read_bytes() == before
    assert not (work / "other.onnx").exists()


def test_force_calibrates_it_again(work):
    run("calibrated.onnx", "--accept", "0.8", "--force")
    run("guard.onnx", "--accept", "0.8", "--force")
    again, first = ((work / name).read_bytes() for name in ("calibrated.onnx", "guard.onnx"))
    assert again == first
    assert read_artifact(again).spec.calibration.acceptance == 0.8


def test_a_stale_file_is_mended_unasked(work):
    calibrated = (work / "calibrated.onnx").read_bytes()
    document = read_artifact(calibrated).spec.to_document()
    document["precision"] = "int8"
    del document["digest"]
    (work / "stale.onnx").write_bytes(stamp(onnx.load_model_from_string(calibrated), document))
    run("stale.onnx", "--accept", "0.8")
    assert read_artifact(work / "stale.onnx").spec.calibration.precision == "int8"


def test_force_means_nothing_to_a_check(work):
    with pytest.raises(UsageError, match="--force: expected --accept beside it, got --check, which sets nothing"):
        run("calibrated.onnx", "--check", "--force")


def test_unlikely_data_is_warned_of_on_standard_error(work):
    document = read_artifact("guard.onnx").spec.to_document()
    document["training"]["benign"] = {"accuracy": 0.3, "rejected": 0.9}
    del document["digest"]
    (work / "guard.onnx").write_bytes(stamp(onnx.load("guard.onnx"), document))
    shown = run("guard.onnx", "--accept", "0.8", "--json")
    warnings = [line for line in shown.stderr.splitlines() if line.startswith("warning: ")]
    assert [
        words in line for words, line in zip(("30.00% get the right", "90.00% are rej"), warnings, strict=True)
    ] == [
        True,
        True,
    ]
    assert "warning" not in shown.stdout


def test_a_check_warns_where_hardly_any_label_is_right(work):
    document = read_artifact("guard.onnx").spec.to_document()
    document["training"]["benign"] = {"accuracy": 0.3, "rejected": 0.9}
    del document["digest"]
    (work / "guard.onnx").write_bytes(stamp(onnx.load("guard.onnx"), document))
    run("guard.onnx", "--accept", "0.8")
    shown = run("guard.onnx", "--check")
    [warning] = [line for line in shown.stderr.splitlines() if line.startswith("warning: ")]
    assert "30.00% get the right label" in warning
    images = len(dataset().test)
    [right] = re.findall(rf"right label +(\d+) of these {images} images", shown.stdout)
    facts = json.loads(run("guard.onnx", "--check", "--json").stdout)
    assert (facts["images"], facts["right_now"]) == (images, int(right))
