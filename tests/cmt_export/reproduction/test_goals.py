from types import SimpleNamespace

import numpy as np
import pytest

from calibration.attacks import Fgs, Pgd
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.objectives.margin import Margin, PairMargin, SummedMargins
from calibration.objectives.rule import WrongConfidence
from cmt_export.reproduction.goals import aimed, choose_targets

PAIR = SimpleNamespace(classmap=(1, 2, 0), threshold=0.25)
SINGLE = SimpleNamespace(classmap=None, threshold=0.0)


@pytest.mark.parametrize(
    ("goal", "targeted", "spec", "objective"),
    [
        ("label", False, PAIR, Margin()),
        ("label", True, PAIR, Margin(targeted=True)),
        ("pair", False, PAIR, PairMargin(classmap=(1, 2, 0), threshold=0.25)),
        ("pair", True, PAIR, PairMargin(classmap=(1, 2, 0), threshold=0.25, targeted=True)),
        ("eq-10", True, PAIR, SummedMargins(classmap=(1, 2, 0), cap=5.0)),
        ("pair", False, SINGLE, Margin()),
        ("eq-10", True, SINGLE, Margin(targeted=True)),
    ],
)
def test_carlini_wagner_takes_the_margin_of_its_goal(goal, targeted, spec, objective):
    attack = aimed(CarliniWagner(rounds=2), goal, targeted=targeted, kappa=5.0, spec=spec)
    assert (attack.objective, attack.confidence, attack.rounds) == (objective, 5.0, 2)


def test_equation_10_at_kappa_0_asks_for_what_can_be_reached():
    attack = aimed(CarliniWagner(), "eq-10", targeted=True, kappa=0.0, spec=PAIR)
    assert attack.objective.cap == attack.confidence > 0


def test_other_attacks_know_the_rule_or_keep_their_loss():
    assert aimed(Pgd(epsilon=0.1), "pair", targeted=False, kappa=None, spec=PAIR).objective == WrongConfidence(
        classmap=(1, 2, 0)
    )
    assert aimed(Pgd(epsilon=0.1), "pair", targeted=False, kappa=None, spec=SINGLE) == Pgd(epsilon=0.1)
    assert aimed(Fgs(epsilon=0.1), "label", targeted=False, kappa=None, spec=PAIR) == Fgs(epsilon=0.1)


def test_targets():
    logits = np.array([[3, 1, 2], [1, 5, 4], [9, 0, 8]], np.float32)
    labels, rows = np.array([0, 2, 1]), np.array([4, 7, 9])

    def choose(kind, rows=rows, labels=labels):
        return choose_targets(kind, logits[: len(rows)], labels, classmap=(1, 2, 0), rows=rows, seed=0)

    assert choose("none") is None
    assert choose("likeliest").tolist() == [2, 1, 0]
    assert choose("partner").tolist() == [1, 0, 2]
    drawn = choose("random")
    assert (drawn != labels).all()
    assert choose("random", rows[:1], labels[:1]).tolist() == drawn[:1].tolist()  # whatever else is in the part
    many = choose_targets("random", np.zeros((999, 3)), np.zeros(999, int), classmap=None, rows=np.arange(999), seed=0)
    assert np.bincount(many, minlength=3)[1:].min() > 400
