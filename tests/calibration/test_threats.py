from dataclasses import replace
from types import SimpleNamespace

import pytest

from calibration.attacks.apgd import Apgd
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.deepfool import DeepFool
from calibration.attacks.fgs import Fgs
from calibration.attacks.square import Square
from calibration.objectives import CROSS_ENTROPY
from calibration.objectives.detector import QuietConfidence
from calibration.objectives.margin import Margin, PairMargin, SummedMargins
from calibration.objectives.rule import WrongConfidence
from calibration.threats import DEFAULT_NAMES, NAMES, THREATS, aim, choose_threats, rehearse
from runtime.errors import UsageError

CLASSMAP = (1, 2, 0)


def readings(names, *roles, rule="pair", locked=True):
    return [threat.reading for threat in choose_threats(names, roles, rule=rule, locked=locked)]


@pytest.mark.parametrize(
    ("names", "roles", "expected"),
    [
        (["grey-box"], [], ["z-star"]),
        (["grey-box"], ["twin"], ["z-star", "oracle"]),
        (["grey-box"], ["twin", "unlocked"], ["z-star", "z", "oracle"]),
        (["black-box"], ["substitute"], ["rehearsed", "substitute"]),
        (["black-box", "grey-box"], ["substitute", "twin"], ["z-star", "oracle", "rehearsed", "substitute"]),
        (["grey-box", "nearly-white-box"], [], ["pair", "z-star"]),
    ],
    ids=["alone", "twin", "all readings", "black-box", "both, strongest first", "knows the rule"],
)
def test_every_reading_whose_file_is_there(names, roles, expected):
    assert readings(names, *roles) == expected


def test_reading_follows_the_rule_of_the_guard():
    assert readings(["nearly-white-box"], rule="confidence") == ["confidence"]
    assert readings(DEFAULT_NAMES, rule="detector") == ["detector", "z-star"]
    with pytest.raises(UsageError, match="--threat eq-10: expected a guard with the rule pair, got the rule detector"):
        readings(["eq-10"], rule="detector")


def test_reading_before_the_lock_needs_a_lock():
    assert readings(["pre-lock"]) == ["pair"]
    with pytest.raises(UsageError, match="--threat pre-lock: expected a guard with the rule pair and a gradient lock"):
        readings(["pre-lock"], locked=False)


@pytest.mark.parametrize(
    ("names", "roles", "message"),
    [
        (["white-box"], [], "--threat: expected nearly-white-box or .* or black-box, got white-box"),
        ([], [], "--threat: expected nearly-white-box or .* or black-box, got none"),
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
    assert NAMES == ("nearly-white-box", "pre-lock", "eq-10", "decision-only", "grey-box", "black-box")


def test_nobody_is_spared_the_attacker_who_knows_the_rule():
    assert [threat.adaptive for threat in choose_threats(DEFAULT_NAMES, (), rule="pair", locked=True)] == [True, False]


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: f"{threat.name} {threat.reading}")
def test_adaptive_is_whoever_wants_more_than_a_wrong_label(threat):
    assert threat.adaptive == (threat.goal != "label")
    assert threat.role == "guard" or not threat.adaptive
    assert threat.knows.endswith(".")


GUARD = SimpleNamespace(classmap=CLASSMAP, threshold=0.25)
FGS, CW, FOOL, SQUARE = Fgs(epsilon=0.1), CarliniWagner(), DeepFool(), Square(epsilon=0.1)


@pytest.mark.parametrize(
    ("name", "attack", "objective"),
    [
        ("nearly-white-box", FGS, WrongConfidence(classmap=CLASSMAP)),
        ("nearly-white-box", CW, PairMargin(classmap=CLASSMAP, threshold=0.25)),
        ("pre-lock", FGS, WrongConfidence(classmap=CLASSMAP, logits="unlocked_logits")),
        ("pre-lock", CW, PairMargin(classmap=CLASSMAP, threshold=0.25, logits="unlocked_logits")),
        ("eq-10", FGS, SummedMargins(classmap=CLASSMAP)),
        ("grey-box", FGS, CROSS_ENTROPY),
        ("grey-box", CW, Margin()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_attack_ascends_what_the_threat_knows(name, attack, objective):
    threat = next(threat for threat in THREATS if threat.name == name)
    assert aim(attack, threat, GUARD) == replace(attack, objective=objective)


@pytest.mark.parametrize(("kappa", "cap"), [(0.0, 0.01), (5.0, 5.0)])
def test_carlini_and_wagner_cut_the_losses_of_equation_10_off(kappa, cap):
    threat = next(threat for threat in THREATS if threat.name == "eq-10")
    aimed = aim(replace(CW, confidence=kappa), threat, GUARD)
    assert aimed == replace(CW, confidence=cap, objective=SummedMargins(classmap=CLASSMAP, cap=cap))


def test_a_detector_has_to_stay_quiet_and_has_no_margin():
    threat = next(threat for threat in THREATS if threat.rule == "detector")
    assert aim(FGS, threat, GUARD) == replace(FGS, objective=QuietConfidence())
    targets = Apgd(epsilon=0.1, all_targets=True)
    assert aim(targets, threat, GUARD) == replace(targets, objective=QuietConfidence(targeted=True))
    assert aim(CW, threat, GUARD) is None


@pytest.mark.parametrize(
    ("rule", "threshold", "attack", "objective"),
    [
        ("pair", 0.25, FGS, WrongConfidence(classmap=CLASSMAP)),
        ("pair", 0.25, CW, PairMargin(classmap=CLASSMAP, threshold=0.25)),
        ("detector", 0.25, FGS, QuietConfidence()),
        ("detector", 0.25, CW, None),
        ("confidence", 0.25, FGS, PairMargin(classmap=None, threshold=0.25)),
        ("confidence", 0.0, FGS, None),
        ("pair", 0.25, FOOL, None),
        ("pair", 0.25, SQUARE, None),
    ],
    ids=["pair", "pair cw", "detector", "detector cw", "single head", "no threshold", "deepfool", "square"],
)
def test_an_attacker_rehearses_on_the_rule_of_his_own_file(rule, threshold, attack, objective):
    source = SimpleNamespace(rule=rule, classmap=CLASSMAP if rule == "pair" else None, threshold=threshold)
    found = rehearse(attack, source)
    assert found == (None if objective is None else replace(attack, objective=objective))


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: f"{threat.name} {threat.reading}")
def test_what_has_no_use_for_a_threat_is_left_out(threat):
    assert (aim(SQUARE, threat, GUARD) is not None) == threat.asks
    assert (aim(FGS, threat, GUARD) is None) == threat.asks
    assert (aim(FOOL, threat, GUARD) is None) == threat.adaptive
