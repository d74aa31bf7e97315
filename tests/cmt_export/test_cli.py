import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.datasets import load_dataset
from cmt_export.checkpoint import Checkpoint, Schedule
from cmt_export.cli import COMMANDS
from cmt_export.recipes import Adversarial, Undefended
from cmt_export.run import start
from cmt_export.training import Step, train
from tests.cmt_export.conftest import EXECUTION, Outcome, make_bars
from tests.runtime.limits import limited

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    (x_train, y_train), (x_test, y_test) = make_bars(192, 0), make_bars(96, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


QUICK = ("--epochs", 1, "--batch-size", 64, "--precision", "fp32", "--memory-format", "contiguous", "--threads", 1)


def _one_line(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome
    complaint = outcome.err.strip().splitlines()[-1]
    assert complaint.startswith(("cmt: ", "Error: "))
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in complaint


def test_train_export_verify_info(cmt, archive, tmp_path):
    trained = cmt("train", archive, "-o", tmp_path / "model.pt", *QUICK, "--json")
    assert trained.code == 0
    assert len(json.loads(trained.out)["classmap"]) == 3
    assert (tmp_path / "model.oracle.onnx").is_file()
    exported = cmt("export", "--ckpt", tmp_path / "model.pt", "-o", tmp_path / "guard.onnx", "--json")
    facts = json.loads(exported.out)
    assert facts["parity"]["different"] == 0
    verified = cmt(
        "verify", tmp_path / "guard.onnx", "--ckpt", tmp_path / "model.pt", "--data", archive, "-n", 20, "--json"
    )
    assert (verified.code, json.loads(verified.out)["benign"]) == (0, 20)
    info = json.loads(cmt("info", tmp_path / "guard.onnx", "--json").out)
    assert info["digest"] == facts["digest"]
    assert info["training"]["classmap"]["likelihood"] == "least"


def test_a_guard_that_rejects_benign_images_is_no_surprise_later(cmt, archive, tmp_path):
    quick = ("train", archive, "-o", tmp_path / "model.pt", *QUICK)
    assert "warning" not in cmt(*quick).err
    hardly = cmt(*quick, "--learning-rate", 1e-9, "--seed", 1, "--json")
    rejected = json.loads(hardly.out)["rejected"]
    assert rejected > 0.5
    assert f"warning: {rejected:.0%} of the benign test images are rejected" in hardly.err


def test_a_recipe_takes_its_own_options_and_exports(cmt, archive, tmp_path):
    recipe = ("--recipe", "hardened", "--inner-steps", 1, "--squash", 4, "--epsilon", 0.1, "--ramp", 1)
    assert cmt("train", archive, "-o", tmp_path / "hardened.pt", *QUICK, *recipe).code == 0
    assert cmt("export", "--ckpt", tmp_path / "hardened.pt", "-o", tmp_path / "hardened.onnx").code == 0
    info = json.loads(cmt("info", tmp_path / "hardened.onnx", "--json").out)
    assert (info["rule"], info["recipe"]["name"], info["recipe"]["squash"]) == ("pair", "hardened", 4.0)
    assert info["training"]["classmap"]["epsilon_max"] == 0.1


def _stop(step: Step) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_run_keeps_its_recipe(cmt, archive, tmp_path):
    path = tmp_path / "a.pt"
    schedule = Schedule(epochs=2, batch_size=64)
    begun = start(load_dataset(archive), recipe=Adversarial(), schedule=schedule, trunk="s-mnist", execution=EXECUTION)
    with pytest.raises(KeyboardInterrupt):
        train(begun, path, on_step=_stop)
    resumed = ("train", archive, "-o", path, "--resume", "--network", "s-mnist")
    _one_line(cmt(*resumed, "--recipe", "pgd"), 2, "expected --recipe adversarial as the run began, got pgd")
    epsilon = ("--recipe", "adversarial", "--epsilon", 0.1)
    _one_line(cmt(*resumed, *epsilon), 2, "expected --epsilon 0.3 as the run began, got 0.1")
    assert cmt(*resumed, "--recipe", "adversarial").code == 0
    assert Checkpoint.load(path).recipe == Adversarial()


def test_a_teacher_is_trained_first_and_kept_for_a_resumed_run(cmt, archive, tmp_path):
    path, teacher = tmp_path / "student.pt", tmp_path / "student.teacher.pt"
    recipe = ("--recipe", "distillation", "--temperature", 5, "--network", "s-mnist")
    assert cmt("train", archive, "-o", path, *QUICK, *recipe).code == 0
    taught = Checkpoint.load(teacher)
    assert taught.recipe == Undefended(temperature=5.0)
    for name, weight in taught.weights.items():
        np.testing.assert_array_equal(Checkpoint.load(path).weights[f"teacher.{name}"], weight)
    path.unlink()
    stamp = teacher.stat().st_mtime_ns
    other = ("--recipe", "distillation", "--temperature", 9, "--network", "s-mnist", "--resume")
    _one_line(cmt("train", archive, "-o", path, *QUICK, *other), 2, "student.teacher.pt", "delete it")
    assert cmt("train", archive, "-o", path, *QUICK, *recipe, "--resume").code == 0
    assert teacher.stat().st_mtime_ns == stamp
    path.unlink()
    _one_line(cmt("train", archive, "-o", path, *QUICK, *recipe, "--resume", "--seed", 2), 2, "--seed 2", "delete it")
    _one_line(cmt("train", _other(tmp_path), "-o", path, *QUICK, *recipe, "--resume"), 2, "the data the run began with")
    assert not path.exists()


def _other(folder: Path) -> Path:
    x_train, y_train = make_bars(192, 5)
    np.savez(folder / "other.npz", x_train=x_train, y_train=y_train, x_test=x_train, y_test=y_train)
    return folder / "other.npz"


def test_a_finished_run_is_not_taken_for_another(cmt, archive, tmp_path):
    path = tmp_path / "model.pt"
    begun = ("train", archive, "-o", path, "--recipe", "none", *QUICK)
    assert cmt(*begun).code == 0
    stamp = path.stat().st_mtime_ns
    assert cmt(*begun, "--resume").code == 0
    _one_line(cmt(*begun, "--resume", "--recipe", "pgd"), 2, "expected --recipe none as the run began, got pgd")
    _one_line(cmt(*begun, "--resume", "--epochs", 5), 2, "expected --epochs 1 as the run began, got 5")
    other = ("train", _other(tmp_path), "-o", path, "--resume", "--recipe", "none", *QUICK)
    _one_line(cmt(*other), 2, "the data the run began with")
    assert path.stat().st_mtime_ns == stamp


def test_the_help_shows_whose_option_it_is_and_every_default(cmt):
    shown = " ".join(cmt("train", "--help").out.split())
    assert "[none|adversarial|distillation|magnet|pgd|trades|ccat|cmt|hardened" in shown
    assert "Weight of the clean cross-entropy, Eq. 8. [cmt: 0.4]" in shown
    assert "cmt: trained; hardened: none" in shown


def _with_a_rare_class(path: Path, rare: int) -> Path:
    """Write bars as the classes a, b and c, the last of them with `rare` training images and no test image."""
    (x_train, y_train), (x_test, y_test) = make_bars(192, 0), make_bars(96, 1)
    kept = np.sort(np.concatenate([np.flatnonzero(y_train != 2), np.flatnonzero(y_train == 2)[:rare]]))
    tested = y_test != 2
    train_split = {"x_train": x_train[kept], "y_train": y_train[kept]}
    np.savez(path, **train_split, x_test=x_test[tested], y_test=y_test[tested], classes=["a", "b", "c"])
    return path


def test_a_class_without_training_images_is_named_before_anything_is_trained(cmt, tmp_path):
    data = _with_a_rare_class(tmp_path / "none.npz", 0)
    refused = cmt("train", data, "-o", tmp_path / "model.pt", *QUICK)
    _one_line(refused, 2, "training images of every class", "none of c", "leave that class out")
    assert not list(tmp_path.glob("*.pt"))
    allowed = cmt("train", data, "-o", tmp_path / "model.pt", "--recipe", "none", *QUICK)
    assert allowed.code == 0
    assert "warning: no training image of c" in allowed.err


def test_a_rare_class_is_part_of_what_the_classmap_is_estimated_on(cmt, tmp_path, monkeypatch):
    monkeypatch.setattr("cmt_export.pipeline._CLASSMAP_IMAGES", 8)
    done = cmt("train", _with_a_rare_class(tmp_path / "rare.npz", 1), "-o", tmp_path / "model.pt", *QUICK)
    assert done.code == 0, done.err
    assert "warning: no test image of c" in done.err
    assert "warning: training images are uneven, from 1 of c to 64 of a" in done.err
    assert Checkpoint.load(tmp_path / "model.pt").data["classmap"]["images"] in (8, 9)


def test_a_network_of_table_1_is_undefended(cmt, archive, tmp_path):
    assert cmt("train", archive, "-o", tmp_path / "s.pt", "--network", "s-mnist", *QUICK).code == 0
    checkpoint = Checkpoint.load(tmp_path / "s.pt")
    assert (checkpoint.recipe.name, checkpoint.trunk, checkpoint.classmap) == ("none", "s-mnist", None)


def test_the_classmap_of_a_given_oracle(cmt, archive, tmp_path):
    cmt("train", archive, "-o", tmp_path / "oracle.pt", "--network", "oracle", *QUICK)
    cmt("export", "--ckpt", tmp_path / "oracle.pt", "-o", tmp_path / "oracle.onnx")
    done = cmt("train", archive, "-o", tmp_path / "model.pt", "--classmap", tmp_path / "oracle.onnx", *QUICK)
    assert done.code == 0
    assert not (tmp_path / "model.oracle.pt").exists()
    digest = json.loads(cmt("info", tmp_path / "oracle.onnx", "--json").out)["digest"]
    assert Checkpoint.load(tmp_path / "model.pt").data["oracle"] == digest


def test_a_trunk_of_ones_own_from_train_to_export(cmt, archive, tmp_path):
    trunk = ("--trunk", "tests.cmt_export.residual:make_trunk")
    assert cmt("train", archive, "-o", tmp_path / "own.pt", *QUICK, *trunk).code == 0
    refused = cmt("export", "--ckpt", tmp_path / "own.pt", "-o", tmp_path / "own.onnx")
    _one_line(refused, 2, "is not built in", "--trunk tests.cmt_export.residual:make_trunk")
    assert cmt("export", "--ckpt", tmp_path / "own.pt", "-o", tmp_path / "own.onnx", *trunk).code == 0


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_weights(cmt, archive, tmp_path, stop):
    """A real process, a real signal, in the middle of the defended network's training."""
    fixed = ("--precision", "fp32", "--memory-format", "contiguous", "--threads", 1)
    common = ("--batch-size", 16, "--epochs", 4, *fixed)
    cmt("train", archive, "-o", tmp_path / "oracle.pt", "--network", "oracle", *QUICK)
    cmt("export", "--ckpt", tmp_path / "oracle.pt", "-o", tmp_path / "oracle.onnx")
    arguments = ["train", archive, "--classmap", tmp_path / "oracle.onnx", *common]
    assert cmt(*arguments, "-o", tmp_path / "straight.pt").code == 0
    stopped = tmp_path / "stopped.pt"
    process = subprocess.Popen(
        [sys.executable, "-c", "from cmt_export.cli import main; main()", *map(str, arguments), "-o", stopped],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not stopped.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(stop)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.rstrip().endswith("interrupted")
    assert not Checkpoint.load(stopped).finished
    _one_line(cmt(*arguments, "-o", stopped), 2, "unfinished run there", "--resume")
    _one_line(cmt(*arguments, "-o", stopped, "--resume", "--seed", 3), 2, "--seed 0 as the run began, got 3")
    assert cmt(*arguments, "-o", stopped, "--resume").code == 0
    left, right = (Checkpoint.load(tmp_path / name) for name in ("straight.pt", "stopped.pt"))
    for name, value in left.weights.items():
        np.testing.assert_array_equal(value, right.weights[name])
    assert cmt(*arguments, "-o", stopped, "--resume").code == 0


def _folder(root: Path, classes: int = 2, size: tuple[int, int] = (8, 8)) -> Path:
    for split in ("train", "test"):
        for label in range(classes):
            (root / split / f"c{label}").mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.full(size, 40 * label + i, np.uint8)).save(root / split / f"c{label}" / f"{i}.png")
    return root


def _with_odd_size(root: Path) -> Path:
    Image.new("L", (9, 8)).save(_folder(root) / "train" / "c1" / "2.png")
    return root


def _with_garbage(root: Path) -> Path:
    (_folder(root) / "test" / "c0" / "1.png").write_bytes(b"no image")
    return root


def _without_test(root: Path) -> Path:
    shutil.rmtree(_folder(root) / "test")
    return root


def _with_stray_class(root: Path) -> Path:
    (_folder(root) / "test" / "zebra").mkdir()
    return root


def _with_empty_classes(root: Path) -> Path:
    for path in _folder(root).rglob("*.png"):
        path.unlink()
    return root


def _as_npz(root: Path, **changes: np.ndarray) -> Path:
    root.mkdir()
    images, labels = make_bars(12, 0)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels} | changes
    np.savez(root / "data.npz", **{name: value for name, value in arrays.items() if value is not None})
    return root / "data.npz"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: root / "absent", ["expected 'digits', a folder with train/ and test/, or an .npz"]),
        (lambda root: _folder(root, classes=1), ["at least two class folders, got 1: c0"]),
        (_with_odd_size, ["2.png: expected 8x8", "got 8x9", "--size 8x8"]),
        (_with_garbage, ["1.png", "mend or remove"]),
        (_without_test, ["test: expected a folder of class folders, got none"]),
        (_with_stray_class, ["expected only the classes of train/, got zebra"]),
        (_with_empty_classes, ["got no file"]),
        (lambda root: _folder(root, size=(4, 4)), ["at least 8x8", "got 4x4"]),
        (lambda root: _as_npz(root, y_test=None), ["got no y_test"]),
        (lambda root: _as_npz(root, x_train=make_bars(12, 0)[0] / 255), ["expected uint8", "got float64"]),
        (lambda root: _as_npz(root, y_test=np.full(12, 7)), ["expected labels in [0, 3), got 7 to 7"]),
        (lambda root: _as_npz(root, y_train=np.zeros(12, int), y_test=np.zeros(12, int)), ["two distinct classes"]),
        (lambda root: _as_npz(root, x_test=np.zeros((12, 9, 9), np.uint8)), ["of one shape, got 8x8x1 and 9x9x1"]),
    ],
    ids=[
        "missing", "one-class", "mixed-sizes", "no-image", "no-test", "stray-class", "no-files", "too-small",
        "npz-key", "npz-float", "npz-label", "npz-one-class", "npz-shapes",
    ],
)  # fmt: skip
def test_bad_data_is_one_line_and_exit_code_2(cmt, tmp_path, make, words):
    data = make(tmp_path / "data")
    _one_line(cmt("train", data, "-o", tmp_path / "model.pt", *QUICK), 2, *words)
    assert not list(tmp_path.glob("*.pt"))


def test_mixed_sizes_can_be_fitted(cmt, tmp_path):
    data = _with_odd_size(tmp_path / "data")
    assert cmt("train", data, "-o", tmp_path / "m.pt", *QUICK, "--network", "s-mnist", "--size", "12x10").code == 0
    assert Checkpoint.load(tmp_path / "m.pt").input_shape == (1, 12, 10)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--learning-rate", "1e30"), 1, ["expected a finite loss", "--learning-rate"]),
        (("--alpha", "0.9"), 2, ["add up to 1"]),
        (("--recipe", "pgd", "--alpha", "0.9"), 2, ["--alpha: expected one of the recipes that have it (cmt)", "pgd"]),
        (("--inner-steps", "9"), 2, ["--inner-steps", "pgd, trades, ccat", "got --recipe cmt"]),
        (("--recipe", "trades", "--classmap", "o.onnx"), 2, ["--classmap", "cmt, hardened", "got --recipe trades"]),
        (("--recipe", "hardened", "--squash", "-1"), 2, ["recipe hardened: expected squash in (0, 100], got -1.0"]),
        (("--network", "oracle", "--trunk", "a:b"), 2, ["expected one of them, got both"]),
        (("--size", "huge"), 2, ["expected a size such as 32x32"]),
        (("--device", "tpu"), 2, ["expected auto, cpu or cuda, got 'tpu'"]),
        (("--classmap", "absent.onnx"), 3, ["absent.onnx"]),
        (("--bogus",), 2, ["--bogus"]),
    ],
    ids=[
        "nan-loss",
        "weights",
        "foreign",
        "unknown-to-cmt",
        "no-classmap",
        "range",
        "both-trunks",
        "size",
        "device",
        "no-oracle",
        "unknown-option",
    ],
)
def test_bad_options(cmt, archive, tmp_path, arguments, code, words):
    quick = ("--epochs", 1, "--batch-size", 64, "--threads", 1)
    _one_line(cmt("train", archive, "-o", tmp_path / "model.pt", *quick, *arguments), code, *words)
    assert not list(tmp_path.glob("model.*"))


def test_an_unwritable_output_is_refused_before_training(cmt, archive, tmp_path):
    _one_line(cmt("train", archive, "-o", tmp_path / "no" / "model.pt", *QUICK), 1, "expected to write it")
    _one_line(cmt("train", archive, "-o", tmp_path, *QUICK), 1, "not a regular file")


def test_a_full_disk_is_one_line_and_leaves_nothing(cmt, archive, tmp_path):
    with limited(resource.RLIMIT_FSIZE, 300_000):  # writing fails in the middle, for any user
        trained = cmt("train", archive, "-o", tmp_path / "model.pt", "--network", "oracle", *QUICK)
    _one_line(trained, 1, "model.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [(None, 2, ["no such file"]), (b"junk", 3, ["written by cmt train"]), (b"\x80\x04N.", 3, ["written by cmt train"])],
    ids=["missing", "junk", "pickle"],
)
def test_a_checkpoint_from_elsewhere(cmt, tmp_path, content, code, words):
    if content is not None:
        (tmp_path / "other.pt").write_bytes(content)
    exported = cmt("export", "--ckpt", tmp_path / "other.pt", "-o", tmp_path / "guard.onnx")
    _one_line(exported, code, *words)
    assert not (tmp_path / "guard.onnx").exists()


def test_verify_fails_with_the_checkpoint_of_another_run(cmt, checkpoint, checkpoint_path, tmp_path):
    cmt("export", "--ckpt", checkpoint_path, "-o", tmp_path / "guard.onnx")
    checkpoint.weights["head.bias"][1] += 50
    checkpoint.save(tmp_path / "other.pt")
    refused = cmt("verify", tmp_path / "guard.onnx", "--ckpt", tmp_path / "other.pt")
    _one_line(refused, 6, "expected the same verdicts")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cmt, command):
    shown = cmt(command, "--help")
    assert shown.code == 0
    assert "Example: cmt" in shown.out


def test_every_command_has_json_where_a_machine_may_read_it(cmt):
    for command in COMMANDS:
        if command != "report":
            assert "--json" in cmt(command, "--help").out, command
