import pytest

from calibration.findings.briefing import brief
from tests.calibration.report_samples import availability, cell, realistic, results
from tests.calibration.results.test_phrasing import spaced

ADAPTIVE = {"threat": "nearly-white-box", "reading": "pair", "adaptive": True}


def test_each_attacker_stands_in_one_column():
    found = brief(
        results(
            cell("pgd", 0.3, 300, 0, **ADAPTIVE),
            cell("fgs", 0.3, 1, 900, **ADAPTIVE),
            cell("igs", 0.3, 40, 900),
            cell("igs", 0.3, 9, 900, reading="oracle", strength=20),
        )
    )
    assert [(line.attacker, line.adaptive) for line in found.falls_to] == [("nearly-white-box pair", True)]
    assert spaced(found.falls_to[0].said) == "PGD at ε = 0.3 fools 30 % (27-33 %)"
    assert [line.attacker for line in found.undecided] == ["grey-box z-star"]
    assert [line.attacker for line in found.withstands] == ["grey-box oracle"]


def test_nobody_fools_anything():
    found = brief(results(cell("igs", 0.3, 0, 900), cell("fgs", 0.3, 0, 900)))
    assert spaced(found.withstands[0].said) == "none of 2 attacks fools any image: 0 % (0-0.4 %)"
    assert spaced(brief(results(cell("igs", 0.3, 0, 900))).withstands[0].said) == "IGS at ε = 0.3 fools 0 % (0-0.4 %)"


def test_who_rejects_everything_withstands_nobody():
    found = brief(results(cell("igs", 0.3, 0, 1000), benign=(0, 900)))
    assert not found.withstands
    assert found.undecided[0].said.endswith(", but most benign images are rejected too")


def test_an_attack_without_a_budget_counts_where_there_is_no_other():
    free = cell("cw", None, 1000, 0)
    assert brief(results(free)).falls_to
    assert not brief(results(free, cell("igs", 0.3, 9, 900))).falls_to


@pytest.mark.parametrize(("kept", "unavailable"), [(0.9, True), (0.99, False)])
def test_what_users_pay(kept, unavailable):
    found = brief(results(cell(), availability=availability(1000, JPEG=kept)))
    assert (found.worst_change.change, found.worst_change.accepted.value) == ("JPEG, quality 95", kept)
    assert found.unavailable == unavailable


def test_nothing_was_tried_or_measured():
    found = brief(results(availability=()))
    assert (found.falls_to, found.undecided, found.withstands, found.worst_change) == ((), (), (), None)
    assert not found.unavailable
    assert brief(realistic()).unavailable
