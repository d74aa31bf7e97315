import hashlib
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from calibration.calibrate_command import calibrate
from calibration.cli import attack, report
from calibration.findings import conclude
from calibration.results import Results
from calibration.sanity import CHECKS
from calibration.thresholds import held_out_images
from runtime.artifact import read_artifact
from runtime.errors import UsageError
from runtime.guard import Guard
from tests.calibration.cli_runs import ATTACK, FAST, cmt, fill, run, run_attack, run_calibrate
from tests.calibration.guards import dataset
from tests.calibration.test_adoption import foreign


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A filled folder as the working directory."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    return tmp_path


def test_attack_writes_results_and_shows_them(work):
    shown = run_attack("-a", "fgs", "--epsilon", "0.05,0.2", "--twin", "twin.onnx")
    found = Results.load("results.json")
    assert found.complete
    assert [(cell.reading, cell.parameters["epsilon"]) for cell in found.cells if cell.reading == "oracle"] == [
        ("oracle", 0.2),
        ("oracle", 0.05),
    ]
    assert found.command == (
        "cmt attack guard.onnx --data data.npz -n 50 --device cpu --threads 1 "
        "-a fgs --epsilon 0.05,0.2 --twin twin.onnx"
    )
    assert found.data.name == "data.npz"
    assert len(found.data.sample) == 50
    lines = shown.stdout.splitlines()
    assert "FGS at ε = 0.2 gets" in lines[0]
    assert sum(line.startswith("grey-box") for line in lines) == 2 * 4
    assert sum(line.startswith("nearly-white-box pair") for line in lines) == 2 * 2
    assert lines[-1] == "next: cmt report results.json -o results.html"
    assert "grey-box oracle: fgs, epsilon 0.2" in shown.stderr


def test_defaults_of_attack(work):
    run_attack("-o", "out.json")
    cells = Results.load("out.json").cells
    assert {(cell.attack, cell.parameters["epsilon"]) for cell in cells} == {
        (name, epsilon) for name in ("fgs", "igs", "pgd") for epsilon in (0.1, 0.3)
    }
    assert {(cell.threat, cell.reading, cell.adaptive) for cell in cells} == {
        ("nearly-white-box", "pair", True),
        ("grey-box", "z-star", False),
    }
    assert {cell.parameters["steps"] for cell in cells if cell.attack == "igs"} == {20}
    assert {(cell.parameters["steps"], cell.parameters["restarts"]) for cell in cells if cell.attack == "pgd"} == {
        (40, 3)
    }


def test_every_threat_on_its_file(work):
    run_attack(
        *("-a", "fgs", "--epsilon", "8/255", "--threat", "grey-box", "--threat", "black-box"),
        *("--substitute", "substitute.onnx", "--eight-bit", "--seed", "2"),
    )
    found = Results.load("results.json")
    assert [(cell.threat, cell.source.file) for cell in found.cells] == [
        ("grey-box", "guard.onnx"),
        ("black-box", "substitute.onnx"),
    ]
    assert (found.data.eight_bit, found.data.seed) == (True, 2)
    assert found.cells[0].parameters["epsilon"] == 8 / 255


def test_json_of_attack_is_the_file_without_pictures(work):
    printed = json.loads(run_attack("-a", "fgs", "--json").stdout)
    stored = json.loads((work / "results.json").read_text())
    for cell in stored["cells"]:
        assert cell.pop("examples")
    finding, sanity = printed.pop("finding"), printed.pop("sanity")
    assert printed == stored
    assert finding["kind"] == conclude(Results.load("results.json")).kind
    assert [one["name"] for one in sanity] == [check.name for check in CHECKS]


def test_steps(work):
    run_attack("-a", "igs,pgd", "--steps", "3", "--restarts", "1", "--epsilon", "0.1", "--threat", "grey-box")
    cells = {cell.attack: cell for cell in Results.load("results.json").cells}
    assert (cells["igs"].parameters["steps"], cells["igs"].gradients_per_image) == (3, 3.0)
    assert (cells["pgd"].parameters["steps"], cells["pgd"].gradients_per_image) == (3, 4.0)
    assert cells["pgd"].parameters["restarts"] == 1


def test_calibrate_in_place_then_attack_other_images(work):
    shown = run_calibrate("--accept", "0.8")
    spec = read_artifact("guard.onnx").spec
    held_out = held_out_images(dataset(), n=50, seed=0)
    assert spec.calibration.data == held_out.digest
    assert spec.calibration.images == 190
    with Guard("guard.onnx", **{"device": "cpu", "threads": 1}) as guard:
        verdicts = guard.classify(held_out.images)
    correct = verdicts.labels == held_out.labels
    assert verdicts.accepted[correct].mean() == spec.calibration.reached >= 0.8
    assert "next: cmt attack guard.onnx --data data.npz -n 50 --seed 0" in shown.stdout
    run_attack("-a", "fgs", "--epsilon", "0.1")
    found = Results.load("results.json")
    assert found.model.threshold == spec.threshold
    attacked = dataset().test.images[list(found.data.sample)]
    assert not {image.tobytes() for image in attacked} & {image.tobytes() for image in held_out.images}


def test_calibrate_to_another_file_leaves_the_first_alone(work):
    before = (work / "guard.onnx").read_bytes()
    printed = json.loads(run_calibrate("--accept", "0.9", "-o", "calibrated.onnx", "--json").stdout)
    assert (work / "guard.onnx").read_bytes() == before
    spec = read_artifact("calibrated.onnx").spec
    assert (printed["file"], printed["threshold"]) == ("calibrated.onnx", spec.threshold)
    assert (printed["images"], printed["reached"]) == (190, spec.calibration.reached)
    assert printed["reached"] <= printed["reachable"]


def test_refused_calibration_leaves_the_file_alone(work):
    before = (work / "guard.onnx").read_bytes()
    with pytest.raises(UsageError, match="--accept: expected at most 0"):
        run_calibrate("--accept", "0.99")
    assert (work / "guard.onnx").read_bytes() == before
    assert sorted(path.name for path in work.iterdir()) == ["data.npz", "guard.onnx", "substitute.onnx", "twin.onnx"]


def test_report_of_the_results(work):
    run_attack("-a", "fgs", "--epsilon", "0.2")
    shown = run(report, "results.json", "-o", "page.html")
    assert shown.stdout == "wrote page.html\n"
    assert "<html" in (work / "page.html").read_text()


CALIBRATE = ["calibrate", "guard.onnx", "--data", "data.npz", "--accept", "0.8"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*ATTACK, "--epsilon", "2"], 2, r"expected epsilon in \[0, 1\], got 2.0; .* 8/255"),
        ([*ATTACK, "--epsilon", "-2"], 2, "expected numbers of at least 0 such as 0.1 or 8/255, got '-2'"),
        ([*ATTACK, "-a", "pgd2"], 2, "expected names out of fgs, .*, noise, got pgd2"),
        ([*ATTACK, "-a", "pgd", "--norm", "l2"], 2, "-a fgs: expected attacks whose ε --norm l2 can measure, got linf"),
        ([*ATTACK, "--size", "9x9"], 2, "--size 9x9: expected a folder of image files to fit, got data.npz; leave"),
        ([*ATTACK, "--size", "8"], 2, "expected a size such as 32x32, got '8'"),
        ([*ATTACK, "--threat", "grey"], 2, "expected names out of nearly-white-box, .*, black-box, got grey"),
        ([*ATTACK, "--threat", "black-box"], 2, "--threat black-box: expected --substitute FILE.onnx"),
        ([*ATTACK, "--substitute", "substitute.onnx"], 2, "--substitute: expected --threat black-box beside it"),
        ([*ATTACK, "--twin", "guard.onnx"], 2, "--twin guard.onnx: expected an undefended file"),
        ([*ATTACK, "--twin", "none.onnx"], 3, "none.onnx.*expected a readable model file"),
        ([*ATTACK, "--twin", "data.npz"], 3, "data.npz"),
        ([*ATTACK, "--steps", "0", "-a", "igs"], 2, "expected steps as a whole number of at least 1"),
        ([*ATTACK, "--restarts", "0", "-a", "pgd"], 2, "expected restarts as a whole number of at least 1"),
        ([*ATTACK, "-n", "0"], 2, "-n: expected at least 1 image"),
        ([*ATTACK, "-o", "guard.onnx"], 2, "guard.onnx': expected a file of its own, got one that is read"),
        ([*ATTACK, "-o", "missing/results.json"], 1, "missing/results.json.*expected to write it"),
        ([*ATTACK, "-o", "."], 1, "expected to write it"),
        ([*ATTACK, "--data", "none"], 2, "none: expected 'digits', a folder"),
        ([*ATTACK, "--device", "cuda:999"], 4, "device cuda.*: expected"),
        ([*ATTACK, "--device", "tpu"], 2, "device: expected auto, cpu, cuda or cuda:N"),
        (CALIBRATE, 2, "at least 100 test images beside the attack's -n 1000, got 0 of 240; .* -n 140 or less"),
        ([*CALIBRATE, "-n", "50", "--accept", "0"], 2, r"--accept: expected a share in \(0, 1\), got 0.0"),
        ([*CALIBRATE, "-n", "50", "--accept", "0.99"], 2, "--accept: expected at most 0.9.*, which 1.. correctly"),
        ([*CALIBRATE, "-n", "50", "-o", "missing/g.onnx"], 1, "missing/g.onnx.*expected to write it"),
        (["calibrate", "none.onnx", "--data", "data.npz", "--accept", "0.8"], 3, "none.onnx.*expected a readable"),
        (
            ["calibrate", "guard.onnx", "--data", "data.npz"],
            2,
            "expected either --accept SHARE or --check, got both or none",
        ),
        (["report", "none.json"], 2, "none.json: expected a results file, got: No such file"),
        (["report", "data.npz"], 2, "data.npz: expected JSON written by `cmt attack`"),
        (["report", "data.npz", "-o", "data.npz"], 2, "data.npz': expected a file of its own"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_with_its_exit_code_and_leaves_every_file_alone(
    work, monkeypatch, capsys, arguments, code, message
):
    before = {path.name: path.read_bytes() for path in work.iterdir()}
    assert cmt(monkeypatch, *arguments) == code
    captured = capsys.readouterr()
    complaint = [line for line in captured.err.splitlines() if line][-1]
    assert re.search(message, complaint)
    assert complaint.startswith(("cmt: ", "Error: "))
    assert "Traceback" not in captured.err
    assert {path.name: path.read_bytes() for path in work.iterdir()} == before


def test_interrupted_attack_keeps_what_it_finished(work):
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # background jobs are deaf
    code = heard + "import sys; sys.argv[0] = 'cmt'; from cmt_export.cli import main; main()"
    endless = ["--steps", "100000000", "-o", "results.json", *FAST]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *ATTACK, "-a", "igs", *endless], stderr=subprocess.PIPE, text=True
    )
    try:
        while process.poll() is None and len(_cells("results.json")) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "kept 2 finished attacks in results.json, marked as incomplete" in complaint
    assert complaint.endswith("cmt: interrupted\n")
    found = Results.load("results.json")
    assert not found.complete
    assert [cell.attack for cell in found.cells] == ["fgs", "fgs"]


def _cells(path):
    try:
        return Results.load(path).cells
    except UsageError:
        return ()


@pytest.mark.parametrize("command", [attack, calibrate, report], ids=lambda command: command.name)
def test_help_has_an_example(command):
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"Example: cmt {command.name} " in shown.stdout


def test_check_says_whether_the_promise_still_holds(work, monkeypatch):
    run_calibrate("--accept", "0.9", "-o", "calibrated.onnx")
    once = json.loads(
        run(
            calibrate, "calibrated.onnx", "--data", "data.npz", "--check", "--state", "state.json", "--json", *FAST
        ).stdout
    )
    assert once["right"] >= once["accepted"] > 0.8 * once["right"]
    assert not once["drifted"]
    stored = json.loads((work / "state.json").read_text())
    assert (stored["right"], stored["accepted"]) == (once["right"], once["accepted"])
    again = ("calibrate", "calibrated.onnx", "--data", "data.npz", "--check", "--state", "state.json")
    assert cmt(monkeypatch, *again) == 2


def test_check_ends_with_6_when_the_images_have_changed(work, monkeypatch, capsys):
    run_calibrate("--accept", "0.9", "-o", "calibrated.onnx")
    noisy = dataset(n_test=600, noise=1.2)
    np.savez(
        work / "today.npz",
        x_train=noisy.train.images,
        y_train=noisy.train.labels,
        x_test=noisy.test.images,
        y_test=noisy.test.labels,
        classes=np.array(noisy.classes),
    )
    assert cmt(monkeypatch, "calibrate", "calibrated.onnx", "--data", "today.npz", "--check") == 6
    assert "the images have changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check"], "--check: expected a calibrated guard"),
        (["--check", "--accept", "0.9"], "expected either --accept SHARE or --check, got both"),
        ([], "expected either --accept SHARE or --check, got both or none"),
        (["--accept", "0.9", "--state", "s.json"], "--state: expected --check beside it"),
        (["--accept", "1.0"], r"--accept: expected a share in \(0, 1\), got 1.0"),
    ],
    ids=["not calibrated", "both", "neither", "state", "all of them"],
)
def test_questions_calibrate_cannot_answer(work, arguments, message):
    with pytest.raises(UsageError, match=message):
        run_calibrate(*arguments)


def test_state_of_another_guard(work):
    run_calibrate("--accept", "0.9", "-o", "calibrated.onnx")
    (work / "state.json").write_text(
        json.dumps({"digest": "d", "acceptance": 0.9, "right": 0, "accepted": 0, "data": []})
    )
    with pytest.raises(UsageError, match=r"state\.json: expected the state of guard .*, got that of d"):
        run(calibrate, "calibrated.onnx", "--data", "data.npz", "--check", "--state", "state.json", *FAST)
    (work / "state.json").write_text("[")
    with pytest.raises(UsageError, match=r"state\.json: expected a file that `cmt calibrate --check` wrote"):
        run(calibrate, "calibrated.onnx", "--data", "data.npz", "--check", "--state", "state.json", *FAST)


def test_every_attack_under_the_threats_it_serves(work):
    shown = run_attack(
        *("-n", "10", "-a", "fgs,igs,pgd,apgd,deepfool,cw,jsma,square,hopskipjump,noise", "--epsilon", "0.2"),
        *("--steps", "4", "--restarts", "1", "--queries", "30"),
        *("--threat", "nearly-white-box,eq-10,grey-box,decision-only"),
    )
    cells = Results.load("results.json").cells
    served = {}
    for cell in cells:
        served.setdefault((cell.threat, cell.adaptive), set()).add(cell.attack)
    loss = {"fgs", "igs", "pgd", "apgd", "cw"}
    assert served == {
        ("nearly-white-box", True): loss,
        ("eq-10", True): loss,
        ("decision-only", True): {"square", "hopskipjump", "noise"},
        ("grey-box", False): loss | {"deepfool", "jsma"},
    }
    asked = [cell for cell in cells if cell.source.tensor == "verdicts"]
    assert {cell.attack for cell in asked} == served["decision-only", True]
    assert all(cell.queries_per_image > 0 == cell.gradients_per_image for cell in asked)
    assert "C&W L2" in shown.stdout


def test_balls_of_l2_and_margins_to_win_by(work):
    run_attack("-a", "pgd,cw", "--norm", "l2", "--epsilon", "1.5", "--confidence", "0,2", "--threat", "grey-box")
    cells = Results.load("results.json").cells
    assert {(cell.attack, cell.parameters.get("norm"), cell.parameters.get("confidence")) for cell in cells} == {
        ("pgd", "l2", None),
        ("cw", None, 0.0),
        ("cw", None, 2.0),
    }
    near, far = sorted((cell for cell in cells if cell.attack == "cw"), key=lambda cell: cell.parameters["confidence"])
    assert near.mean_l2 < far.mean_l2


def test_defaults_leave_out_what_the_norm_cannot_measure(work):
    shown = run_attack("--norm", "l2", "--epsilon", "1", "--steps", "2", "--restarts", "1")
    cells = Results.load("results.json").cells
    assert {(cell.attack, cell.parameters["norm"]) for cell in cells} == {("igs", "l2"), ("pgd", "l2")}
    assert shown.stderr.splitlines()[0] == "left out fgs: its ε is in linf alone, not in --norm l2"


def test_every_wrong_label_as_a_target(work):
    run_attack("-a", "apgd", "--all-targets", "--steps", "3", "--restarts", "1", "--epsilon", "0.1")
    cells = {cell.threat: cell for cell in Results.load("results.json").cells}
    knowing, ignorant = cells["nearly-white-box"], cells["grey-box"]
    assert knowing.parameters["objective"]["name"] == "TargetConfidence"
    assert ignorant.parameters["objective"] == {"name": "CrossEntropy", "of": "logits", "targeted": True}
    assert knowing.gradients_per_image > 3 * (3 + 1)


def test_somebody_elses_classifier(work):
    (work / "theirs.onnx").write_bytes(foreign(mean=0.3, std=0.5, second_output=True).SerializeToString())
    named = ("--logits", "scores", "--mean", "0.3", "--std", "0.5", "-a", "fgs", "--epsilon", "0.2")
    run(attack, "theirs.onnx", "--data", "data.npz", "-n", "50", *FAST, *named)
    found = Results.load("results.json")
    assert (found.model.file, found.model.rule, found.model.threshold) == ("theirs.onnx", "confidence", 0.0)
    assert found.model.sha256 == hashlib.sha256((work / "theirs.onnx").read_bytes()).hexdigest()
    assert all(cell.counts.rejected == 0 for cell in found.cells)
    assert found.cells[0].counts.fooled > found.benign.counts.fooled


def test_transfer_from_several_classifiers_of_any_kind(work):
    (work / "theirs.onnx").write_bytes(foreign().SerializeToString())
    files = ("--substitute", "theirs.onnx", "--substitute", "substitute.onnx")
    run_attack("-a", "igs", "--epsilon", "0.2", "--threat", "black-box", *files)
    cells = Results.load("results.json").cells
    assert {cell.source.file for cell in cells} == {"theirs.onnx", "substitute.onnx"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-a", "deepfool", "--threat", "nearly-white-box"],
            "--threat nearly-white-box: expected an attack that foll",
        ),
        (
            ["-a", "fgs", "--threat", "decision-only"],
            "--threat decision-only: expected an attack that asks",
        ),
        (
            ["-a", "fgs,square"],
            "-a square: expected a threat that it serves, such as decision-only, got nearly-white-box, grey-box;",
        ),
        (["-a", "fgs,deepfool", "--threat", "nearly-white-box"], "serves, such as grey-box, got nearly-white-box; see"),
        (["-a", "pgd", "--all-targets"], "--all-targets: expected an attack that has it, got pgd; leave it out"),
        (["-a", "fgs", "--steps", "3"], "--steps: expected an attack that has it, got fgs; leave it out"),
        (["-a", "fgs", "--epsilon", "8"], r"expected epsilon in \[0, 1\], got 8.0; .* 8/255"),
        (["--threat", "pre-lock"], "--threat pre-lock: expected a guard with the rule pair and a gradient lock"),
        (["--logits", "scores"], "expected another classifier, got a guard file; leave out"),
    ],
    ids=[
        "label attack",
        "gradients",
        "asking",
        "label attack beside others",
        "targets",
        "steps",
        "grey levels",
        "no lock",
        "guard file",
    ],
)
def test_combinations_that_make_no_sense(work, arguments, message):
    with pytest.raises(UsageError, match=message):
        run_attack(*arguments)
