import json
import random
from dataclasses import replace

import pytest

from calibration.metrics import Counts, rate
from calibration.results import Results, Score
from runtime.errors import CmtError, UsageError
from tests.calibration.small_results import cell, results


def test_file_gives_back_the_same_results(tmp_path):
    found = results(cell(), cell(fooled=10, epsilon=0.3))
    found.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == found
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_json_is_the_documented_one():
    document = results(cell()).to_json()
    assert list(document) == [
        *("schema", "complete", "command", "model", "data", "environment", "self_check", "benign", "cells")
    ]
    assert document["schema"] == 1
    assert document["benign"]["counts"] == {"n": 10, "correct": 10, "rejected": 0, "fooled": 0, "right_label": 10}
    value, low, high = document["cells"][0]["rates"]["fooled"]
    assert (value, low <= value <= high) == (0.1, True)
    assert document["cells"][0]["examples"][0]["attacked"] == {"label": 1, "accepted": True, "confidence": 0.75}


def test_undefined_error_is_null():
    nothing = Counts(n=3, correct=0, rejected=3, fooled=0, right_label=0)
    found = replace(results(), benign=Score(counts=nothing, rates=rate(nothing)))
    assert found.to_json()["benign"]["rates"]["error_when_accepted"] is None
    assert Results.from_json(found.to_json()) == found


def test_cells_are_sorted_adaptive_first_then_strongest_then_by_what_they_fool():
    order = [
        cell(adaptive=True, strength=5, fooled=0),
        cell(strength=30, fooled=3),
        cell(strength=30, fooled=2, attack="fgs"),
        cell(strength=30, fooled=2, attack="igs", epsilon=0.1),
        cell(strength=30, fooled=2, attack="igs", epsilon=0.3),
        cell(strength=10, fooled=9),
    ]
    for seed in range(5):
        assert list(results(*random.Random(seed).sample(order, len(order))).cells) == order


def test_unwritable_output(tmp_path):
    with pytest.raises(CmtError, match="choose another place"):
        results().save(tmp_path / "missing" / "results.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON written by `cmt attack`"),
        ("\xff", "expected JSON written by `cmt attack`"),
        ('{"schema": NaN}', "expected JSON written by `cmt attack`"),
        ("[" * 100_000, "expected JSON written by `cmt attack`"),
        ("[]", "results: expected an object"),
        ('{"schema": 2}', "expected schema 1, got 2; use a matching version"),
        ('{"schema": 1}', "results: expected the keys .* got"),
    ],
    ids=["cut off", "not text", "nan", "deep", "list", "schema", "empty"],
)
def test_files_that_hold_no_results(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=f"results.json: .*{message}"):
        Results.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json: expected a results file, got: No such file"):
        Results.load(tmp_path / "none.json")


def test_folder(tmp_path):
    with pytest.raises(UsageError, match="expected a results file, got: Is a directory"):
        Results.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["cells"][0]["counts"].update(fooled=7), "add up to n"),
        (lambda d: d["cells"][0].update(seconds=None), r"results.cells\[0\].seconds: expected a number"),
        (lambda d: d["model"].pop("rule"), r"results.model: .*missing \['rule'\]"),
        (lambda d: d["cells"][0]["rates"].update(fooled=[1, 2]), "rates.fooled: expected 3 values"),
        (lambda d: d["data"].update(sample=["1"]), r"results.data.sample\[0\]: expected a whole number"),
    ],
    ids=["counts", "type", "missing", "interval", "sample"],
)
def test_edited_files_are_refused_by_the_place(tmp_path, change, message):
    document = results(cell()).to_json()
    change(document)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=message):
        Results.load(path)
