from dataclasses import replace

import numpy as np
import pytest

from calibration.comparing import compare
from calibration.comparing.pages import headline, render_table
from calibration.metrics import rate, share
from calibration.results import PoolResults
from calibration.results.records import Score
from runtime.errors import UsageError
from tests.calibration.defence_samples import ADAPTIVE, attack, defence
from tests.calibration.results.test_joining import on
from tests.calibration.results.test_phrasing import spaced
from tests.calibration.small_results import TRUTH, cell, columns, tally_of


def table(*found, **options):
    return compare([(f"{number}.json", one) for number, one in enumerate(found)], **options)


def test_one_row_a_guard_and_all_its_files_joined():
    first = defence("cmt", attack({0, 1}))
    second = defence("cmt", attack({1, 2}, attack="pgd", restarts=5))
    other = defence("pgd", attack({4}))
    found = table(first, other, second)
    assert [one.name for one in found.defences] == ["pgd", "cmt"]
    one = found.defences[1].within("linf", 0.3)
    assert one.fooled == share(3, 10)
    assert one.restarts == 5
    assert one.attacks == ("nearly-white-box APGD", "nearly-white-box PGD")
    assert found.defences[1].files[0].commands == ("cmt attack cmt.onnx",) * 2


@pytest.mark.parametrize(("order", "names"), [("strongest", ["b", "c", "a"]), ("given", ["a", "b", "c"])])
def test_order(order, names):
    rows = [defence("a", attack(range(5))), defence("b", attack({0})), defence("c", attack({0, 1}))]
    assert [one.name for one in table(*rows, order=order).defences] == names


def test_who_accepts_nothing_stands_behind_all_that_answer():
    said = columns(rejected=range(9))
    mute = defence("mute", attack(rejected=range(10)), calibration=None)
    mute = replace(mute, benign=Score(counts=tally_of(said), rates=rate(tally_of(said)), verdicts=said))
    found = table(mute, defence("cmt", attack(range(4))), defence("none"))
    assert [one.name for one in found.defences] == ["cmt", "mute", "none"]
    assert found.defences[1].verdict == "undecided"
    assert "of 10 images within ε = 0.3, accepting 10 % (< 1-45 %) of benign images." in spaced(headline(table(mute)))


def unbounded(fooled):
    return cell(attack="cw", epsilon=None, verdicts=columns(fooled), **ADAPTIVE)


def test_who_withstands_attacks_without_a_budget_was_attacked_too_weakly():
    found = table(defence("flat", attack(), unbounded({3})), defence("cmt", attack(range(4)), unbounded(range(10))))
    assert [one.name for one in found.defences] == ["cmt", "flat"]
    assert found.defences[0].doubt is None
    assert "C&W" in found.defences[1].doubt
    assert "too good: without a budget nearly-white-box" in render_table(found)
    alone = spaced(headline(table(defence("flat", attack(), unbounded({3})))))
    assert "This is too good: without a budget nearly-white-box" in alone


def test_every_figure_of_one_cell():
    found = table(
        defence("cmt", attack({0, 1}, {2, 3, 4}), cell(attack="fgs", verdicts=columns({5}, {6}), epsilon=0.1))
    )
    (row,) = found.defences
    one = row.within("linf", 0.3)
    assert one.fooled == share(3, 10)
    assert one.adaptive_fooled == share(2, 10)
    assert one.wrong_or_rejected == share(7, 10)
    assert one.wrong_label == share(3, 10)
    assert one.robust_error == share(3, 10)
    assert (one.n, one.restarts, one.by_every) == (10, 1, None)
    assert row.within("linf", 0.1).fooled == share(1, 10)
    assert row.within("l2", 0.3) is None
    assert (row.threshold, row.verdict) == ("calibrated", "falls")
    assert found.budgets == (("linf", 0.1), ("linf", 0.3))


def test_a_threshold_that_was_not_attacked_is_chosen_again_and_said():
    confidence = np.where(np.arange(10) < 4, 0.9, 0.3)
    verdicts = columns(range(6), confidence=confidence)
    made = replace(attack(), verdicts=verdicts)
    (loose,) = table(defence("none", made, calibration=None)).defences
    assert loose.threshold == "re-chosen"
    assert loose.within("linf", 0.3).fooled == share(4, 10)  # 0.75 accepts 99 % of the benign images
    assert loose.within("linf", 0.3).wrong_label == share(6, 10)
    (tight,) = table(defence("none", made)).defences
    assert (tight.threshold, tight.within("linf", 0.3).fooled) == ("calibrated", share(6, 10))


def test_a_hard_rule_that_rejects_more_than_one_percent_keeps_its_threshold():
    made = defence("cmt", attack({0}), calibration=None)
    benign = replace(made.benign, verdicts=columns(rejected={9}))
    (row,) = table(replace(made, benign=benign)).defences
    assert row.threshold == "own"


def test_rows_of_one_recipe_are_told_apart_by_what_differs():
    first = defence("hardened", recipe={"epsilon": 0.3, "steps": 5})
    second = defence("hardened", digest="x", recipe={"epsilon": 0.4, "steps": 5})
    assert {one.name for one in table(first, second).defences} == {
        "hardened (epsilon = 0.3)",
        "hardened (epsilon = 0.4)",
    }
    again = defence("hardened", digest="y", recipe={"epsilon": 0.3, "steps": 5}, file="b.onnx")
    assert {one.name for one in table(first, again).defences} == {"hardened, out/hardened.onnx", "hardened, b.onnx"}
    same = defence("hardened", digest="z", recipe={"epsilon": 0.3, "steps": 5})
    assert len({one.name for one in table(first, same).defences}) == 2


def test_as_few_options_as_tell_rows_apart_and_none_that_older_results_lack():
    grid = [(0.3, 5, 8), (0.0, 5, 8), (0.0, 2, 8), (0.0, 2, 12)]
    rows = [
        defence("hardened", digest=str(row), recipe={"clean": clean, "steps": steps, "size": steps / 8, "wide": wide})
        for row, (clean, steps, wide) in enumerate(grid)
    ]
    newer = replace(rows[3], model=replace(rows[3].model, recipe={**rows[3].model.recipe, "added": 2}))
    assert {one.name for one in table(*rows[:3], newer).defences} == {
        "hardened (clean = 0.3, size = 0.625, wide = 8)",
        "hardened (clean = 0, size = 0.625, wide = 8)",
        "hardened (clean = 0, size = 0.25, wide = 8)",
        "hardened (clean = 0, size = 0.25, wide = 12)",
    }


def test_attacks_that_only_others_had_are_named():
    lock = attack({1}, threat="pre-lock")
    square = attack({2}, threat="decision-only", attack="square", reading="deployed")
    first = defence("cmt", attack({0}), lock, square, recipe={"lock": "trained"})
    second = defence("hardened", attack({3}), recipe={"lock": "none"})
    rows = {one.name: one.within("linf", 0.3) for one in table(first, second).defences}
    assert rows["cmt"].missing == ()
    assert rows["hardened"].missing == ("decision-only Square",)  # it has no lock to look behind


def test_no_attack_and_attacks_to_come():
    found = table(defence("none"), awaited=["trades", "ccat"])
    assert found.defences[0].at == ()
    assert found.defences[0].verdict == "untested"
    assert found.awaited == ("trades", "ccat")


def test_fewer_images_of_the_same_sample_are_allowed_and_shown():
    few = replace(on([1, 3, 5], attack({1})), model=defence("few").model)
    found = table(defence("all", attack({0})), few)
    assert {one.name: one.n for one in found.defences} == {"all": 10, "few": 3}
    assert found.images.most == 10
    assert next(one for one in found.defences if one.name == "few").within("linf", 0.3).fooled == share(1, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"digest": "1" * 64}, r"expected results with one data set, got 0{16} in 0\.json and 1{16} in 1\.json"),
        ({"split": "train"}, r"one split, got test in 0\.json and train in 1\.json; compare them apart"),
        ({"seed": 3}, r"one seed, got 0 in 0\.json and 3 in 1\.json"),
        ({"eight_bit": True}, "one rounding to 8 bits, got False"),
        ({"sample": tuple(range(10))}, r"expected 1\.json to be about images of 0\.json, got others"),
    ],
    ids=["data", "split", "seed", "rounding", "sample"],
)
def test_refuses_other_images(changed, message):
    other = defence("pgd", attack({0}))
    other = replace(other, data=replace(other.data, **changed))
    with pytest.raises(UsageError, match=message):
        table(defence("cmt", attack({0})), other)


def test_refuses_what_knows_no_single_image_and_nothing():
    old = defence("cmt")
    old = replace(old, benign=replace(old.benign, verdicts=None), data=replace(old.data, labels=None))
    with pytest.raises(UsageError, match=r"0\.json: expected the verdict on every image, got results of schema 1"):
        table(old)
    with pytest.raises(UsageError, match="expected at least one results file, got none"):
        table()


def test_a_pool_is_one_row_that_counts_expectations():
    members = PoolResults(members=(defence("a", attack({0, 1})), defence("b", attack({1, 2, 3}))))
    (row,) = table(members).defences
    one = row.within("linf", 0.3)
    assert row.name == "ensemble of a, b"
    assert one.fooled.value == pytest.approx((2 + 3) / 20)
    assert one.by_every == share(1, 10)
    assert one.by_worst == share(3, 10)
    assert one.robust_error is None
    assert [file.file for file in row.files] == ["out/a.onnx", "out/b.onnx"]
    assert row.verdict == "falls"
    assert row.tried[0].fooled == pytest.approx(0.25)
    assert len(TRUTH) == row.n


def test_attacks_that_know_the_rule_come_first():
    knows = attack({0})
    found = table(defence("cmt", cell(attack="fgs", verdicts=columns(range(9))), knows))
    assert [one.adaptive for one in found.defences[0].tried] == [True, False]
