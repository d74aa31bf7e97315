import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.metrics import Counts, rate
from calibration.results import Results, load_results
from calibration.results.detection_figures import detection_figures
from calibration.results.image_columns import ChangeColumns, pack, pack_labels
from calibration.results.records import Score
from calibration.results.worst_case import worst_cases
from runtime.errors import CmtError, UsageError
from tests.calibration.small_results import cell, changes, columns, lengths, results, tally_of


def test_file_gives_back_the_same_results(tmp_path):
    found = results(cell(), cell(fooled=10, epsilon=0.3))
    found.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == found
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_json_is_the_documented_one():
    document = results(cell()).to_json()
    assert list(document) == [
        *("schema", "complete", "command", "model", "data", "environment", "self_check", "logits_checks"),
        *("repetition", "benign", "availability", "worst_cases", "cells", "probes"),
    ]
    assert document["schema"] == 2
    assert document["benign"]["counts"] == {"n": 10, "correct": 10, "rejected": 0, "fooled": 0, "right_label": 10}
    value, low, high = document["cells"][0]["rates"]["fooled"]
    assert (value, low <= value <= high) == (0.1, True)
    assert document["cells"][0]["examples"][0]["attacked"] == {"label": 1, "accepted": True, "confidence": 0.75}


def test_undefined_error_is_null():
    nothing = Counts(n=3, correct=0, rejected=3, fooled=0, right_label=0)
    found = replace(results(), benign=Score(counts=nothing, rates=rate(nothing), verdicts=None))
    assert found.to_json()["benign"]["rates"]["error_when_accepted"] is None


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
        ('{"schema": 3}', "expected schema 1 or 2, got 3; use a matching version"),
        ('{"schema": 2}', "results: expected the keys .* got"),
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
        (lambda d: d["data"].update(sample=[1, 2]), "labels: expected 2 of at least 0, got 10"),
        (lambda d: d["data"].update(images=9), "expected ascending indices of 9 images"),
        (lambda d: d["data"].update(sample=[*range(9), 8]), "expected ascending indices of"),
        (lambda d: d["data"].update(labels=None, sample=[1]), r"expected 1 verdicts in every row, got \[10\]"),
        (lambda d: d["cells"][0].update(changes=vars(changes(0.1, 3))), r"expected 10 verdicts .*, got \[3, 10\]"),
        (lambda d: d["benign"]["verdicts"].update(labels="?"), "labels: expected base64"),
    ],
    ids=[
        "counts",
        "type",
        "missing",
        "interval",
        "sample",
        "too few images",
        "an image twice",
        "labels",
        "verdicts",
        "changes",
        "column",
    ],
)
def test_edited_files_are_refused_by_the_place(tmp_path, change, message):
    document = results(cell()).to_json()
    change(document)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=message):
        Results.load(path)


def older(document):
    """The same document as schema 1 had it."""
    document["schema"] = 1
    for name in ("logits_checks", "repetition", "availability", "worst_cases", "probes"):
        del document[name]
    del document["data"]["labels"], document["benign"]["verdicts"]
    for one in document["cells"]:
        del one["verdicts"], one["changes"], one["detection"]
    return document


def test_files_of_schema_1_are_read_without_verdicts():
    found = results(cell(), cell(fooled=3, epsilon=0.3))
    read = Results.from_json(older(found.to_json()))
    assert (read.schema, read.benign.verdicts, read.worst_cases, read.data.truth) == (2, None, (), None)
    assert [one.rates for one in read.cells] == [one.rates for one in found.cells]
    assert all(one.verdicts is None and one.detection is None for one in read.cells)


STORED = Path(__file__).parents[3] / "results"


STORED_RESULTS = [
    STORED / "mnist/evaluation.json",
    *sorted(STORED.glob("defences/*/*.json")),
    *sorted(STORED.glob("cifar10/defences/*/*.json")),
]


@pytest.mark.parametrize("path", STORED_RESULTS, ids=lambda path: str(path.relative_to(STORED)))
def test_stored_results_are_read(path):
    assert load_results(path).complete


@pytest.mark.parametrize(
    "document", [{"schema": 1, "cells": [1], "data": [], "benign": "x"}, {"schema": 1, "cells": {}}]
)
def test_schema_1_that_holds_nothing(document):
    with pytest.raises(UsageError, match="results: expected the keys"):
        Results.from_json(document)


def test_a_thousand_images_under_forty_attacks_are_less_than_two_megabytes(tmp_path):
    truth = np.arange(1000) % 2
    rng = np.random.default_rng(0)
    said = columns(truth=truth, confidence=rng.random(1000))
    near = ChangeColumns(l2=pack(rng.random(1000), "<f4"), linf=pack(rng.random(1000), "<f4"))
    base = results()
    tally = tally_of(said, truth)
    detection = detection_figures(said.scores(truth), said.scores(truth), threshold=0.0)
    figures = {"counts": tally, "rates": rate(tally), "detection": detection, **lengths(near)}
    cells = [replace(cell(), verdicts=said, changes=near, examples=(), **figures) for _ in range(40)]
    data = replace(base.data, images=1000, sample=tuple(range(1000)), labels=pack_labels(truth))
    benign = Score(counts=tally, rates=rate(tally), verdicts=said)
    found = replace(base, data=data, benign=benign, cells=tuple(cells), worst_cases=worst_cases(said, truth, cells))
    found.save(tmp_path / "results.json")
    assert (tmp_path / "results.json").stat().st_size < 2e6
    assert Results.load(tmp_path / "results.json") == found


@pytest.mark.parametrize("missing", ["verdicts", "changes"])
def test_verdicts_and_changes_come_together(missing):
    with pytest.raises(UsageError, match="expected verdicts and changes of an attack, got one of them"):
        results(replace(cell(), **{missing: None}))
