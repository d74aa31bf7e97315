from pathlib import Path

import pytest

from calibration.objectives import CROSS_ENTROPY
from calibration.objectives_rule import WrongConfidence
from calibration.threats import DEFAULT_NAMES, NAMES, THREATS, choose_threats
from runtime.errors import UsageError

FILE = Path("file.onnx")


CLASSMAP = (1, 2, 0)


def readings(names, *roles, rule="pair"):
    return [threat.reading for threat in choose_threats(names, dict.fromkeys(roles, FILE), rule=rule)]


@pytest.mark.parametrize(
    ("names", "roles", "expected"),
    [
        (["grey-box"], [], ["z-star"]),
        (["grey-box"], ["twin"], ["z-star", "oracle"]),
        (["grey-box"], ["twin", "unlocked"], ["z-star", "z", "oracle"]),
        (["black-box"], ["substitute"], ["substitute"]),
        (["black-box", "grey-box"], ["substitute", "twin"], ["z-star", "oracle", "substitute"]),
        (["grey-box", "nearly-white-box"], [], ["pair", "z-star"]),
    ],
    ids=["alone", "twin", "all readings", "black-box", "both, strongest first", "knows the rule"],
)
def test_every_reading_whose_file_is_there(names, roles, expected):
    assert readings(names, *roles) == expected


def test_reading_follows_the_rule_of_the_guard():
    assert readings(["nearly-white-box"], rule="confidence") == ["confidence"]
    assert readings(["grey-box"], rule="detector") == ["z-star"]
    with pytest.raises(
        UsageError, match="--threat nearly-white-box: expected a guard with the rule pair or confidence, got detector"
    ):
        readings(DEFAULT_NAMES, rule="detector")


@pytest.mark.parametrize(
    ("names", "roles", "message"),
    [
        (["white-box"], [], "--threat: expected nearly-white-box or grey-box or black-box, got white-box"),
        ([], [], "--threat: expected nearly-white-box or grey-box or black-box, got none"),
        (["black-box"], [], "--threat black-box: expected --substitute FILE.onnx, got none"),
        (["grey-box", "black-box"], [], "--threat black-box: expected --substitute"),
        (["grey-box"], ["substitute"], "--substitute: expected --threat black-box beside it, got grey-box"),
        (["black-box"], ["substitute", "twin"], "--twin: expected --threat grey-box beside it, got black-box"),
    ],
    ids=["unknown", "none", "no file", "no file for one", "unused substitute", "unused twin"],
)
def test_questions_that_cannot_be_answered(names, roles, message):
    with pytest.raises(UsageError, match=message):
        readings(names, *roles)


def test_table_is_in_order_of_strength_and_the_headline_stands_first():
    ranks = [(not threat.adaptive, -threat.strength) for threat in THREATS]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)
    assert (THREATS[0].name, THREATS[0].reading, THREATS[0].role) == ("nearly-white-box", "pair", "guard")
    assert NAMES == ("nearly-white-box", "grey-box", "black-box")


def test_nobody_is_spared_the_attacker_who_knows_the_rule():
    assert [threat.adaptive for threat in choose_threats(DEFAULT_NAMES, {}, rule="pair")] == [True, False]


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.reading)
def test_adaptive_is_what_ascends_the_verdict_of_the_guard(threat):
    expected = WrongConfidence(classmap=CLASSMAP) if threat.adaptive else CROSS_ENTROPY
    assert threat.objective(CLASSMAP) == expected
    assert threat.adaptive == (threat.rule is not None)
    assert threat.role == "guard" or not threat.adaptive
    assert threat.knows.endswith(".")
