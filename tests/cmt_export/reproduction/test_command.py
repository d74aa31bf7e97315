import json

import numpy as np
import pytest

from cmt_export.reproduction.sections import SECTIONS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fashion",), "expected one of mnist, cifar10, digits, got 'fashion'"),
        (("mnist",), "--data: expected the folder of mnist, got none"),
        (("mnist", "--data", "digits"), "expected mnist, 10 classes of 28x28x1, got 10 of 8x8x1"),
        (("digits", "--data", "nowhere"), "expected 'digits', a folder with train/ and test/"),
        (("digits", "--only", "table6"), "expected names out of"),
        (("digits", "-n", "0"), "-n: expected at least 1, got 0"),
        (("digits", "--cw-steps", "0"), "--cw-steps: expected at least 1, got 0"),
        (("digits", "--epochs", "0"), "--epochs: expected at least 1, got 0"),
        (("digits", "--seed", "-1"), "--seed: expected 0 or more, got -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line(cmt, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    refused = cmt("reproduce", *arguments)
    assert refused.code == 2
    assert words in refused.err.strip().splitlines()[-1]
    assert "Traceback" not in refused.err


def test_places_that_cannot_be_used_are_one_line(cmt, tmp_path):
    (tmp_path / "file").write_text("")
    refused = cmt("reproduce", "digits", "-o", tmp_path / "file")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "expected a folder, got a file; name another" in refused.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    refused = cmt("reproduce", "digits", "-o", tmp_path / "out", "--work", tmp_path / "full")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "got something else; name another" in refused.err


def test_a_set_of_too_few_classes_is_refused(cmt, tmp_path):
    images, labels = np.zeros((8, 8, 8), np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "two.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    refused = cmt("reproduce", "digits", "--data", tmp_path / "two.npz", "-o", tmp_path / "out")
    assert refused.code == 2
    assert "expected digits, 10 classes of 8x8x1, got 2 of 8x8x1" in refused.err


def test_the_plan_lists_the_work_and_does_none(cmt, tmp_path):
    planned = cmt("reproduce", "digits", "-o", tmp_path, "--plan", "--json", "--threads", 1, "--device", "cpu")
    assert planned.code == 0, planned.err
    plan = json.loads(planned.out)
    assert plan["hours"] == pytest.approx(sum(unit["hours"] for unit in plan["units"]))
    assert plan["pace"]["gradient"] > 0
    assert not any(unit["done"] for unit in plan["units"])
    assert all(unit["hours"] > 0 for unit in plan["units"])
    assert len({unit["key"] for unit in plan["units"]}) == len(plan["units"])
    assert not (tmp_path / ".work" / "units").exists()
    assert not (tmp_path / "summary.md").exists()


def test_every_section_is_named_in_the_help(cmt):
    shown = " ".join(cmt("reproduce", "--help").out.split())
    assert all(name in shown for name in SECTIONS)
