from pathlib import Path

import pytest

from calibration.threats import NAMES, THREATS, choose_threats
from runtime.errors import UsageError

FILE = Path("file.onnx")


def readings(names, *roles):
    return [threat.reading for threat in choose_threats(names, dict.fromkeys(roles, FILE))]


@pytest.mark.parametrize(
    ("names", "roles", "expected"),
    [
        (["grey-box"], [], ["z-star"]),
        (["grey-box"], ["twin"], ["z-star", "oracle"]),
        (["grey-box"], ["twin", "unlocked"], ["z-star", "z", "oracle"]),
        (["black-box"], ["substitute"], ["substitute"]),
        (["black-box", "grey-box"], ["substitute", "twin"], ["z-star", "oracle", "substitute"]),
    ],
    ids=["alone", "twin", "all readings", "black-box", "both, strongest first"],
)
def test_every_reading_whose_file_is_there(names, roles, expected):
    assert readings(names, *roles) == expected


@pytest.mark.parametrize(
    ("names", "roles", "message"),
    [
        (["white-box"], [], "--threat: expected grey-box or black-box, got white-box"),
        ([], [], "--threat: expected grey-box or black-box, got none"),
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
    assert (THREATS[0].name, THREATS[0].reading, THREATS[0].role) == ("grey-box", "z-star", "guard")
    assert NAMES == ("grey-box", "black-box")


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.reading)
def test_adaptive_is_what_reads_the_robust_head(threat):
    assert threat.adaptive == ("robust_logits" in threat.tensor)
    assert threat.knows.endswith(".")
