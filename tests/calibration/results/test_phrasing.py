import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.metrics import Interval, share
from calibration.results.phrasing import (
    amount,
    attack_with_strength,
    bounds,
    cell_name,
    percent,
    threat_name,
    with_bounds,
)
from tests.calibration.report_samples import cell

PLAIN = {"\N{NARROW NO-BREAK SPACE}": " ", "\N{NO-BREAK SPACE}": " ", "\N{WORD JOINER}": "", "\N{EN DASH}": "-"}


def spaced(text):
    """The text with the signs of a keyboard."""
    return text.translate(str.maketrans(PLAIN))


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        pytest.param(0.0, 1, "0 %", id="none"),
        pytest.param(1.0, 1, "100 %", id="all"),
        pytest.param(0.4213, 1, "42.1 %", id="one decimal"),
        pytest.param(0.4213, 0, "42 %", id="no decimal"),
        pytest.param(0.0001, 1, "< 0.1 %", id="not nothing"),
        pytest.param(0.9999, 1, "> 99.9 %", id="not all"),
        pytest.param(0.9999, 0, "> 99 %", id="not all, no decimal"),
        pytest.param(0.002, 0, "< 1 %", id="not nothing, no decimal"),
    ],
)
def test_percent(value, digits, text):
    assert spaced(percent(value, digits=digits)) == text


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_only_nothing_is_nothing_and_only_all_is_all(counts):
    part, whole = counts
    text = spaced(percent(part / whole))
    assert (text == "0 %") == (part == 0)
    assert (text == "100 %") == (part == whole)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        pytest.param(Interval(0.42, 0.389, 0.4512), "42 % (39-45 %)", id="whole in the middle"),
        pytest.param(Interval(0.021, 0.0130, 0.0319), "2.1 % (1.3-3.2 %)", id="a decimal near zero"),
        pytest.param(share(0, 1000), "0 % (0-0.4 %)", id="none"),
        pytest.param(share(3, 3), "100 % (29.2-100 %)", id="all of three"),
    ],
)
def test_with_bounds(interval, text):
    assert spaced(with_bounds(interval)) == text


def test_an_interval_never_breaks_over_two_lines():
    assert " " not in bounds(Interval(0.5, 0.4, 0.6))
    assert "\N{EN DASH}\N{WORD JOINER}" in bounds(Interval(0.5, 0.4, 0.6))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(0.3, "0.3", id="decimal"),
        pytest.param(0.2, "0.2", id="decimal that is 51/255"),
        pytest.param(8 / 255, "8/255", id="grey levels"),
        pytest.param(1e-7, "1e-07", id="tiny"),
        pytest.param(0.0, "0", id="zero"),
        pytest.param(-1e308, "-1e+308", id="huge"),
        pytest.param(20, "20", id="count"),
        pytest.param(False, "False", id="switch"),
        pytest.param("relu", "relu", id="text"),
        pytest.param({"name": "CE", "of": "logits", "weight": 0.25}, "CE (of = logits, weight = 0.25)", id="record"),
        pytest.param({"of": "logits"}, "(of = logits)", id="record without a name"),
    ],
)
def test_amount(value, text):
    assert amount(value) == text


@pytest.mark.parametrize(
    ("attack", "parameters", "text"),
    [
        pytest.param("igs", {"epsilon": 0.3, "steps": 20}, "IGS at ε = 0.3", id="budget"),
        pytest.param("cw", {"confidence": 40.0}, "C&W L2 at κ = 40", id="confidence"),
        pytest.param("deepfool", {"steps": 50}, "DeepFool", id="no strength"),
        pytest.param("brand-new", {"epsilon": 8 / 255}, "brand-new at ε = 8/255", id="unknown attack"),
        pytest.param("apgd", {"epsilon": 2.0, "norm": "l2"}, "APGD at ε = 2 (L2)", id="a budget in L2"),
    ],
)
def test_attack_with_strength(attack, parameters, text):
    assert spaced(attack_with_strength(cell(attack, parameters=parameters))) == text


def test_names_of_threats_and_rows():
    assert threat_name("grey-box", "z-star") == "grey-box z-star"
    assert threat_name("decision-only", "decision-only") == "decision-only"
    assert spaced(cell_name(cell("fgs", 0.1))) == "grey-box z-star FGS at ε = 0.1"
