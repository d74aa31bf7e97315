from dataclasses import replace

import pytest

from calibration.results.resuming import cell_key, check_resumable, key_of
from runtime.errors import UsageError
from tests.calibration.small_results import cell, columns, results


def test_a_key_is_that_of_the_record_read_back():
    one = cell(parameters={"epsilon": 0.1, "classmap": (1, 0)})
    other = replace(one, parameters={"classmap": [1, 0], "epsilon": 0.1})
    assert key_of(one) == key_of(other)
    assert key_of(one) == cell_key(one.threat, one.reading, one.attack, one.parameters, one.source)


@pytest.mark.parametrize(
    "change",
    [
        {"threat": "black-box"},
        {"reading": "oracle"},
        {"attack": "fgs"},
        {"parameters": {"epsilon": 0.2}},
        {"source": replace(cell().source, digest="1" * 64)},
        {"source": replace(cell().source, tensor="robust_logits")},
    ],
    ids=["threat", "reading", "attack", "parameter", "file", "tensor"],
)
def test_attacks_that_differ_have_other_keys(change):
    assert key_of(replace(cell(), **change)) != key_of(cell())


def test_apgd_that_stayed_inside_before_it_had_a_choice_is_the_same_attack():
    before = replace(cell(), attack="apgd")
    now = replace(before, parameters={**before.parameters, "widest": 1.0})
    assert key_of(before) == key_of(now)
    assert key_of(before) != key_of(replace(before, parameters={**before.parameters, "widest": 3.0}))


def test_figures_and_time_are_no_part_of_a_key():
    assert key_of(cell(fooled=3, seconds=9.0, mean_l2=7.0)) == key_of(cell())


def test_a_part_of_the_same_sweep_goes_on():
    earlier = results(cell(), complete=False)
    check_resumable(earlier, results(), {key_of(cell()), key_of(cell(attack="fgs"))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"model": replace(r.model, sha256="1" * 64)}, "expected the file to be '0000.* as now, got '1111"),
        (lambda r: {"data": replace(r.data, digest="1" * 64)}, "expected the images' digest to be '0000"),
        (lambda r: {"data": replace(r.data, seed=3)}, "expected the images' seed to be 0 as now, got 3"),
        (lambda r: {"environment": replace(r.environment, onnxruntime="2")}, "expected the environment's onnxruntime"),
        (lambda r: {"benign": replace(r.benign, verdicts=columns({1}))}, "expected benign verdicts to be"),
        (lambda r: {"benign": replace(r.benign, verdicts=None)}, "expected benign verdicts .* got None"),
        (lambda r: {"cells": (cell(attack="fgs"),)}, "expected attacks of this sweep, got grey-box z-star FGS"),
    ],
    ids=["file", "data", "seed", "version", "verdicts", "schema 1", "attack"],
)
def test_anything_else_is_refused_in_one_line(change, message):
    now = results()
    with pytest.raises(UsageError, match=f"^--resume: {message}") as refused:
        check_resumable(replace(now, **change(now)), now, {key_of(cell())})
    assert len(str(refused.value).splitlines()) == 1
