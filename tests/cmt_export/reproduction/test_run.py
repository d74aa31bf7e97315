import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from calibration.evaluation.provenance import environment
from calibration.results import Results
from cmt_export.checkpoint import Checkpoint
from cmt_export.reproduction.claims import benign_unit
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.kept import Kept, read_kept
from cmt_export.reproduction.lineup import GUARD
from cmt_export.reproduction.outcome import write_outcome
from cmt_export.reproduction.preset import KAPPAS
from cmt_export.reproduction.sections import SECTIONS
from cmt_export.reproduction.sets import ORACLE, Z_STAR
from runtime import Guard
from tests.cmt_export.reproduction import tiny

PAGES = {"table3.md", "table4.md", "table5.md", "ablation.md", "claims.md", "summary.md"}
DRAWN = {f"figure{number}.{kind}" for number, kind in ((2, "svg"), (4, "svg"), (5, "svg"), (6, "svg"), (7, "svg"))}
PICTURES = {f"figure{number}.png" for number in (1, 9, 10, 11, 12)}


def _cells(folder, section):
    return json.loads((folder / "results.json").read_text())["cells"][section]


def _answers(found, export, pixels):
    """What PyTorch says to float pixels: label, and the rule written anew."""
    checkpoint = Checkpoint.load(found.store.folder(export.train) / "model.pt")
    with torch.no_grad():
        outputs = checkpoint.build()(torch.from_numpy(pixels))
    labels = outputs.logits.argmax(1).numpy()
    if checkpoint.classmap is None:
        return labels, np.ones(len(labels), bool)
    return labels, outputs.robust_logits.argmax(1).numpy() == np.array(checkpoint.classmap)[labels]


def test_everything_is_written_and_complete(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names == PAGES | {"figures", "results.json", "report.html", "evaluation.json", "guard.onnx", ".work"}
    assert {path.name for path in (finished.folder / "figures").iterdir()} == DRAWN | PICTURES
    for name in PAGES:
        assert "not run yet" not in (finished.folder / name).read_text(), name
    for name in DRAWN:
        assert "not run yet" not in (finished.folder / "figures" / name).read_text(), name
    document = json.loads((finished.folder / "results.json").read_text())
    assert document["complete"]
    assert not any(done.reused for done in finished.done)
    everything = [cell for cells in document["cells"].values() for cell in cells]
    assert {cell["verdict"] for cell in everything} <= {"not published", "undefined"}
    assert all(cell["digest"] for cell in everything)
    assert Results.load(finished.folder / "evaluation.json").complete


def test_the_guard_is_the_one_that_was_attacked(finished):
    path = finished.folder / "guard.onnx"
    attacked = Results.load(finished.folder / "evaluation.json").model.sha256
    with Guard(path, sha256=attacked, device="cpu") as guard:
        assert guard.digest == json.loads((finished.folder / "results.json").read_text())["networks"]["guard"]["digest"]


def test_the_report_names_files_without_the_work_folder(finished):
    found = Results.load(finished.folder / "evaluation.json")
    assert found.model.file == "guard.onnx"
    assert {check.file for check in found.self_check} <= {
        "guard.onnx",
        "oracle.onnx",
        "unlocked.onnx",
        "substitute.onnx",
    }


def test_the_command_that_was_typed_is_recorded(finished):
    command = "cmt reproduce digits -n 30"
    assert f"To repeat it: `{command}`." in (finished.folder / "summary.md").read_text()
    assert json.loads((finished.folder / "results.json").read_text())["command"] == command
    assert Results.load(finished.folder / "evaluation.json").command == command


def test_the_first_line_says_whether_it_holds(finished):
    first = (finished.folder / "summary.md").read_text().partition("\n")[0]
    headline = max(_cells(finished.folder, "headline"), key=lambda cell: cell["interval"][0])
    assert headline["count"] / headline["n"] > 0.05
    assert first.startswith("**The defence falls**: somebody who knows the rule")
    assert json.loads((finished.folder / "results.json").read_text())["finding"] == first


@pytest.mark.parametrize(
    ("attack", "reading", "place"), [("fgs", ORACLE, 0), ("cw", Z_STAR, len(KAPPAS) - 1)], ids=["fgs", "cw"]
)
def test_cells_are_what_pytorch_says_to_the_stored_pixels(finished, digits, attack, reading, place):
    found = finished.found
    parts = found.sets.transferred(reading, attack)
    stored = [np.load(found.store.folder(part) / "examples.npz") for part in parts]
    pixels, rows = (
        np.concatenate([one["x_adv"][place] for one in stored]),
        np.concatenate([one["rows"] for one in stored]),
    )
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    truth = digits.test.labels[rows]
    labels, accepted = _answers(found, found.lineup.guard, pixels)
    name = ["grey-box", "defended", {"fgs": "FGS", "cw": "C&W L2"}[attack], reading]
    (accuracy,) = [cell for cell in _cells(finished.folder, "table3") if (cell["name"], cell["option"]) == (name, "")]
    assert (accuracy["count"], accuracy["n"]) == (int((labels == truth).sum()), len(rows))
    judged = found.judged(found.lineup.guard, parts)
    np.testing.assert_array_equal(judged.accepted[place], accepted)
    np.testing.assert_array_equal(judged.generated[place], accepted & (labels != truth))
    benign = digits.test.images[rows].transpose(0, 3, 1, 2) / 255.0
    np.testing.assert_allclose(judged.linf[place], np.abs(pixels - benign).max((1, 2, 3)), atol=1e-6)
    if attack == "fgs":
        assert judged.linf.max() == pytest.approx(found.sets.epsilon, abs=1e-6)
        assert len(rows) == 120
        (rate,) = [cell for cell in _cells(finished.folder, "table4") if (cell["name"], cell["option"]) == (name, "")]
        assert rate["count"] == int((~accepted).sum())


def test_benign_cost_is_what_the_guard_says(finished, digits):
    unit = benign_unit(finished.found.sets, finished.found.lineup.guard)
    with Guard(finished.found.store.folder(unit.judge) / "guard.onnx", device="cpu") as guard:
        verdicts = guard.classify(digits.test.images)
    cells = {cell["name"][1]: cell for cell in _cells(finished.folder, "claims") if cell["name"][0] == "section 4.5"}
    rejected = cells["wrongly rejected, defended"]
    assert (rejected["count"], rejected["n"]) == (int((~verdicts.accepted).sum()), 120)
    accuracy = cells["accuracy through Z*, defended"]
    assert accuracy["count"] == int((verdicts.labels == digits.test.labels).sum())


def test_table_5_counts_targets_and_acceptance(finished, digits):
    found = finished.found
    guard = found.lineup.guard
    parts = found.sets.generated(guard, "eq-10", targeted=True)
    (stored,) = (np.load(found.store.folder(part) / "examples.npz") for part in parts)
    truth, targets = digits.test.labels[stored["rows"]], stored["targets"]
    assert (targets != truth).all()
    for place, kappa in enumerate(KAPPAS):
        labels, accepted = _answers(found, guard, stored["x_adv"][place])
        name = ["targeted", "defended", f"κ = {kappa:g}", "Eq. 10"]
        cells = [cell for cell in _cells(finished.folder, "table5") if (cell["name"], cell["option"]) == (name, "")]
        assert [cell["count"] for cell in cells] == [int((accepted & (labels == targets)).sum())]


def test_equation_10_without_a_target_counts_any_wrong_label(finished, digits):
    found = finished.found
    guard = found.lineup.guard
    (stored,) = (
        np.load(found.store.folder(part) / "examples.npz")
        for part in found.sets.generated(guard, "eq-10", targeted=False)
    )
    assert (stored["targets"] == -1).all()
    labels, accepted = _answers(found, guard, stored["x_adv"][0])
    name = ["non-targeted", "defended", "κ = 0", "Eq. 10"]
    (cell,) = (cell for cell in _cells(finished.folder, "table5") if (cell["name"], cell["option"]) == (name, ""))
    assert cell["count"] == int((accepted & (labels != digits.test.labels[stored["rows"]])).sum())


def test_precision_and_recall_mix_benign_images_in(finished):
    found = finished.found
    judged = found.judged(found.lineup.guard, found.sets.transferred("substitute", "cw"))
    benign = found.benign(benign_unit(found.sets, found.lineup.guard))
    cells = {(cell["name"][1], cell["name"][2]): cell for cell in _cells(finished.folder, "figure5")}
    true, false = int((~judged.accepted[0]).sum()), int((~benign.accepted[judged.rows]).sum())
    assert (cells["recall", "κ = 0"]["count"], cells["recall", "κ = 0"]["n"]) == (true, 24)
    precision = cells["precision", "κ = 0"]
    assert (precision["count"], precision["n"]) == ((true, true + false) if true + false else (None, None))


def test_pictures_are_small(finished):
    for name in PICTURES:
        path = finished.folder / "figures" / name
        assert path.stat().st_size < 200_000
        assert np.asarray(Image.open(path)).std() > 5
    assert all((finished.folder / "figures" / name).stat().st_size < 200_000 for name in DRAWN)


@pytest.fixture
def killed(tmp_path):
    """A reproduction whose process was killed without warning in the middle of a unit."""
    program = [sys.executable, tiny.__file__, str(tmp_path / "out"), "headline,figure2"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("judge pgd"):
                break
        process.kill()
    assert process.returncode == -9
    return tiny.make(tmp_path / "out", "headline", "figure2")


def test_a_killed_run_goes_on_to_the_same_outcome(finished, digits, killed):
    partly = (killed.output / "summary.md").read_text()
    assert partly.startswith("**The defence falls**") or "not run yet" in partly
    assert "not run yet" in (killed.output / "figures" / "figure2.svg").read_text()
    done = tiny.run(killed, digits)
    reused = [one.title for one in done if one.reused]
    assert any(title.startswith("train cmt") for title in reused)
    assert any(title.startswith("judge pgd") for title in reused)
    assert not all(one.reused for one in done)
    for section in ("headline", "figure2"):
        counts = [(cell["name"], cell["count"], cell["n"]) for cell in _cells(killed.output, section)]
        assert counts == [(cell["name"], cell["count"], cell["n"]) for cell in _cells(finished.folder, section)]
    figure = "figures/figure2.svg"
    assert (killed.output / figure).read_bytes() == (finished.folder / figure).read_bytes()

    again = tiny.run(killed, digits)
    assert all(one.reused for one in again)
    changed = tiny.run(replace(killed, config=replace(tiny.CONFIG, pgd_restarts=1)), digits)
    assert {one.title.split()[1] for one in changed if not one.reused} == {"pgd"}

    before = [(cell["name"], cell["count"]) for cell in _cells(finished.folder, "headline")]
    found = killed.open(digits)
    unit = SECTIONS["headline"].units(found.sets)[0]
    assert isinstance(unit, JudgeSet)
    stored = found.store.folder(unit.parts[0]) / "examples.npz"
    stored.write_bytes(stored.read_bytes()[:-100])
    mended = tiny.run(killed, digits)
    assert [one.note for one in mended if not one.reused] == ["examples.npz is damaged"]
    assert [(cell["name"], cell["count"]) for cell in _cells(killed.output, "headline")] == before


def test_two_processes_share_the_work_and_agree_on_the_outcome(finished, tmp_path):
    programs = [[sys.executable, tiny.__file__, str(tmp_path / name), "headline,figure2"] for name in ("out", "second")]
    (tmp_path / "out" / ".work").mkdir(parents=True)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / ".work").symlink_to(tmp_path / "out" / ".work")
    both = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for program in programs]
    told = [process.communicate(timeout=300)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    own = [{title for title in titles if not title.endswith("+")} for titles in told]
    assert all(own)
    assert not own[0] & own[1]
    assert all({title.rstrip("+") for title in titles} == own[0] | own[1] for titles in told)
    for name in ("out", "second"):
        for section in ("headline", "figure2"):
            counts = [(cell["name"], cell["count"], cell["n"]) for cell in _cells(tmp_path / name, section)]
            assert counts == [(cell["name"], cell["count"], cell["n"]) for cell in _cells(finished.folder, section)]


def test_what_another_process_finishes_meanwhile_is_shown(finished, digits, tmp_path, monkeypatch):
    """The records of judgements appear just after the outcome was written for the first time."""
    work = shutil.copytree(finished.folder / ".work", tmp_path / "work")
    records = {path: path.read_bytes() for path in (work / "units").glob("judge*/unit.json")}
    assert records
    for path in records:
        path.unlink()

    def write_then_finish(*arguments, **options):
        write_outcome(*arguments, **options)
        for path, record in records.items():
            path.write_bytes(record)

    monkeypatch.setattr("cmt_export.reproduction.run.write_outcome", write_then_finish)
    reproduction = replace(tiny.make(tmp_path / "out", "headline", "figure2"), work=work)
    assert all(one.reused for one in tiny.run(reproduction, digits))
    assert "not run yet" not in (tmp_path / "out" / "figures" / "figure2.svg").read_text()


def test_sections_that_are_not_asked_for_stay_as_an_earlier_run_left_them(finished, digits, tmp_path):
    """On another machine, without the earlier work: its figures stay, those asked for are made again."""
    output = tmp_path / "out"
    shutil.copytree(finished.folder, output, ignore=shutil.ignore_patterns(".work"))
    before = json.loads((output / "results.json").read_text())
    table = (output / "table3.md").read_bytes()
    unfinished = replace(
        tiny.make(output, "ablation"),
        preset=replace(tiny.PRESET, ablation_epochs=4),  # networks of its own
        command="cmt reproduce digits --only ablation",
    )
    write_outcome(
        output,
        unfinished.open(digits),
        unfinished.only,
        environment(device="cpu", threads=1),
        command=unfinished.command,
        kept=read_kept(output, unfinished.open(digits), asked=unfinished.only),
    )
    after = json.loads((output / "results.json").read_text())
    for section in ("headline", "table3", "table5", "claims", "figure5"):
        assert after["cells"][section] == before["cells"][section]
    assert all(cell["count"] is None for cell in after["cells"]["ablation"])
    assert after["finding"] == before["finding"]
    assert after["networks"]["guard"] == before["networks"]["guard"]
    assert not after["complete"]
    assert set(after["sections_complete"]) == set(SECTIONS) - {"ablation"}
    assert [run["command"] for run in after["earlier"]] == [before["command"]]
    summary = (output / "summary.md").read_text()
    assert f"To repeat it: `{before['command']}`, then `{after['command']}`." in summary
    assert summary.partition("\n")[0] == before["finding"]
    assert (output / "table3.md").read_bytes() == table
    assert "not run yet" in (output / "ablation.md").read_text()


def test_figures_of_other_options_or_data_are_not_kept(finished, digits, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished.folder, output, ignore=shutil.ignore_patterns(".work"))
    other = replace(tiny.make(output, "figure2"), config=replace(tiny.CONFIG, pgd_steps=3)).open(digits)
    kept = read_kept(output, other, asked=("figure2",))
    headline = SECTIONS["headline"].cells(other)
    assert headline
    assert all(kept.cell("headline", cell, other.store.key(cell.unit)) == (cell, None) for cell in headline)
    document = json.loads((output / "results.json").read_text())
    document["data"]["test"] = "0" * 64
    (output / "results.json").write_text(json.dumps(document))
    assert read_kept(output, other, asked=()) == Kept()


def test_the_same_command_again_is_listed_once(finished, digits, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished.folder, output, ignore=shutil.ignore_patterns(".work"))
    again = replace(
        tiny.make(output, "figure2"), work=finished.folder / ".work", command="cmt reproduce --only figure2"
    )
    for _ in range(3):
        tiny.run(again, digits)
    document = json.loads((output / "results.json").read_text())
    assert [run["command"] for run in document["earlier"]] == [finished.reproduction.command]
    assert (output / "summary.md").read_text().count("--only figure2`") == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [("count", "many"), ("count", -1), ("count", 10**6), ("n", None), ("published", "high"), ("name", "word")],
    ids=str,
)
def test_an_outcome_with_a_damaged_figure_keeps_nothing(finished, tmp_path, place, value):
    document = json.loads((finished.folder / "results.json").read_text())
    document["cells"]["table3"][0][place] = value
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert read_kept(tmp_path, finished.found, asked=("figure2",)) == Kept()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"set": "digits", "data": 3}'], ids=str)
def test_what_is_no_outcome_keeps_nothing(finished, tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    assert read_kept(tmp_path, finished.found, asked=()) == Kept()


def test_nothing_is_hidden_before_it_is_run(digits, tmp_path):
    reproduction = tiny.make(tmp_path / "out", *SECTIONS)
    found = reproduction.open(digits)
    write_outcome(reproduction.output, found, SECTIONS, environment(device="cpu", threads=1), command="")
    for name in PAGES:
        assert "not run yet" in (reproduction.output / name).read_text(), name
    document = json.loads((reproduction.output / "results.json").read_text())
    assert not document["complete"]
    assert {cell["verdict"] for cells in document["cells"].values() for cell in cells} == {"not run yet"}
    assert GUARD in document["networks"]
    assert (reproduction.output / "summary.md").read_text().startswith("**Whether the defence holds is not known yet**")
