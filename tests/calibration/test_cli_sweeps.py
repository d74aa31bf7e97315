"""Gates, resuming, stored images and joined reports, from the command line."""

import re
from dataclasses import replace

import pytest

from calibration.cli import attack, report
from calibration.results import Results
from calibration.results.worst_case import worst_cases
from runtime.errors import UsageError
from tests.calibration.cli_runs import ATTACK, FAST, cmt, fill, run, run_attack
from tests.calibration.guards import guard_file


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A filled folder as the working directory."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("condition", "code", "message"),
    [
        (
            "fooled>0.05",
            6,
            r"--fail-if fooled>0.05: all attacks together within ε = 0.3 \(linf\) has fooled 0\.\d{4}; so do \d more",
        ),
        ("fooled>0.05@grey-box", 6, "--fail-if fooled>0.05@grey-box: grey-box z-star FGS"),
        ("fooled>=1.0", 0, None),
        ("availability<1e-9", 0, None),
        ("availability<1@JPEG, quality 75", 6, "benign images after “JPEG, quality 75” has availability 0"),
        ("rejected>0@pgd", 6, "no row was measured that it is about"),
        ("fooled>5", 2, "expected a limit that a share between 0 and 1 can be beyond, got 'fooled>5.0'"),
        ("fooled>1", 2, "expected a limit that a share between 0 and 1 can be beyond"),
        ("auroc<0", 2, "expected a limit that a share between 0 and 1 can be beyond"),
        ("fooled>5 %", 2, "expected a condition such as fooled>0.05"),
        ("fooled>0.05@pgd2", 2, "expected one of nearly-white-box, .* behind @, got 'pgd2'"),
    ],
)
def test_gates(work, monkeypatch, capsys, condition, code, message):
    assert (
        cmt(monkeypatch, *ATTACK, "--epsilon", "0.2,0.3", *FAST, "--fail-if", "fooled>=1", "--fail-if", condition)
        == code
    )
    err = capsys.readouterr().err
    assert (work / "results.json").exists() == (code != 2)
    if message is not None:
        assert re.search(message, err.splitlines()[-1])


def test_interrupted_sweep_goes_on(work, monkeypatch, capsys):
    sweep = (*ATTACK, "--epsilon", "0.1,0.2", "--twin", "twin.onnx", *FAST)
    assert cmt(monkeypatch, *sweep) == 0
    whole = Results.load("results.json")
    part = interrupted(whole, whole.cells[1::2])
    part.save("results.json")
    capsys.readouterr()
    assert cmt(monkeypatch, *sweep, "--resume") == 0
    shown = capsys.readouterr().err
    assert sum(": fgs, epsilon" in line for line in shown.splitlines()) == len(whole.cells) - len(part.cells)
    again = Results.load("results.json")
    assert again.complete
    assert (untimed(again).cells, again.worst_cases) == (untimed(whole).cells, whole.worst_cases)
    assert [one for one in again.cells if one in part.cells] == list(part.cells)


def test_sanity_of_a_resumed_sweep_is_that_of_an_uninterrupted_one(work, monkeypatch):
    sweep = (*ATTACK, "-a", "pgd", "--steps", "3", "--epsilon", "0.1,0.2", *FAST, "--sanity")
    assert cmt(monkeypatch, *sweep) == 0
    whole = Results.load("results.json")
    assert {probe.purpose for probe in whole.probes} >= {"doubled", "half", "unbounded", "noise"}
    for kept in (whole.cells[1:], whole.cells):
        interrupted(whole, kept).save("results.json")
        assert cmt(monkeypatch, *sweep, "--resume") == 0
        again = Results.load("results.json")
        assert again.repetition == whole.repetition
        assert [untimed_probe(one) for one in again.probes] == [untimed_probe(one) for one in whole.probes]


def interrupted(whole, kept):
    """What is on the disk when only some of the attacks are finished."""
    together = worst_cases(whole.benign.verdicts, whole.data.truth, kept)
    return replace(whole, cells=kept, worst_cases=together, probes=(), repetition=None, complete=False)


def untimed_probe(probe):
    return replace(probe, cell=replace(probe.cell, seconds=0.0))


def test_whoever_has_the_file_is_no_black_box_attacker(work, monkeypatch, capsys):
    arguments = (*ATTACK, "--threat", "nearly-white-box,black-box", "--substitute", "guard.onnx")
    assert cmt(monkeypatch, *arguments) == 2
    expected = "--substitute guard.onnx: expected another file, got the one under attack"
    assert expected in capsys.readouterr().err.splitlines()[-1]


def untimed(results):
    return replace(results, cells=tuple(replace(one, seconds=0.0) for one in results.cells))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1"], r"expected the images' sample to be \("),
        (["-n", "49"], "expected the images' sample"),
        (["--eight-bit"], "expected the images' eight_bit to be True as now, got False"),
        (["--threads", "2"], "expected the environment's threads to be 2 as now, got 1"),
        (["--epsilon", "0.3"], "expected attacks of this sweep, got nearly-white-box pair FGS at .* too"),
        (["-a", "igs", "--steps", "3"], "expected attacks of this sweep, got nearly-white-box pair FGS"),
    ],
    ids=["seed", "n", "8 bit", "threads", "epsilon", "attack"],
)
def test_sweeps_that_differ_do_not_go_on(work, arguments, message):
    run_attack("-a", "fgs", "--epsilon", "0.1,0.2")
    before = (work / "results.json").read_bytes()
    attacks = () if "-a" in arguments else ("-a", "fgs")
    epsilon = () if "--epsilon" in arguments else ("--epsilon", "0.1,0.2")
    with pytest.raises(UsageError, match="--resume: " + message):
        run_attack(*attacks, *epsilon, *arguments, "--resume")
    assert (work / "results.json").read_bytes() == before


def test_another_guard_does_not_go_on_and_a_new_sweep_starts(work):
    run_attack("-a", "fgs", "--resume")
    (work / "guard.onnx").write_bytes(guard_file(doubt=1.0))
    with pytest.raises(UsageError, match="--resume: expected the file to be"):
        run_attack("-a", "fgs", "--resume")


@pytest.mark.parametrize("eight_bit", [True, False], ids=["png", "npz"])
def test_images_of_every_attack_are_stored_and_not_made_twice(work, monkeypatch, capsys, eight_bit):
    sweep = (*ATTACK, "--epsilon", "0.1,0.2", *FAST, "--save-images", "images", *["--eight-bit"] * eight_bit)
    assert cmt(monkeypatch, *sweep) == 0
    folders = sorted((work / "images").iterdir())
    assert [re.sub("-[0-9a-f]{8}$", "", folder.name) for folder in folders] == [
        f"{threat}-fgs-at-{epsilon}"
        for threat in ("grey-box-z-star", "nearly-white-box-pair")
        for epsilon in (0.1, 0.2)
    ]
    assert cmt(monkeypatch, *sweep) == 2
    assert "images: expected an empty or new folder" in capsys.readouterr().err
    (folders[0] / "index.csv").unlink()
    assert cmt(monkeypatch, *sweep, "--resume") == 0
    assert [": fgs, epsilon" in line for line in capsys.readouterr().err.splitlines()].count(True) == 1
    assert (folders[0] / "index.csv").exists()


def test_report_and_card_of_several_results(work):
    run_attack("-a", "fgs", "--epsilon", "0.2", "-o", "a.json")
    run(attack, "guard.onnx", "--data", "data.npz", "-n", "30", *FAST, "-a", "igs", "--steps", "2", "-o", "b.json")
    shown = run(report, "a.json", "b.json", "-o", "page.html", "--md", "card.md")
    assert shown.stdout == "wrote page.html\nwrote card.md\n"
    page, card = (work / "page.html").read_text(), (work / "card.md").read_text()
    for text in (page, card):
        assert "FGS at" in text
        assert "IGS at" in text
        assert all(Results.load(name).command in text for name in ("a.json", "b.json"))


def test_results_of_different_guards_or_data_are_not_joined(work):
    run_attack("-a", "fgs", "-o", "a.json")
    (work / "guard.onnx").write_bytes(guard_file(doubt=1.0))
    run_attack("-a", "fgs", "-o", "b.json")
    with pytest.raises(UsageError, match="report: expected results of one guard, got"):
        run(report, "a.json", "b.json")
    with pytest.raises(UsageError, match=r"card.md|b.json"):
        run(report, "b.json", "--md", "b.json")
    with pytest.raises(UsageError, match=r"--md .*page.html: expected a file of its own, got that of the page"):
        run(report, "b.json", "-o", "page.html", "--md", f"{work}/../{work.name}/page.html")
    assert not (work / "page.html").exists()
