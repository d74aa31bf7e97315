from dataclasses import replace

import numpy as np
import pytest

from calibration.metrics import rate
from calibration.results.image_columns import pack_labels
from calibration.results.joining import join
from calibration.results.records import Probe
from runtime.errors import UsageError
from tests.calibration.small_results import SAMPLE, TRUTH, cell, columns, results, tally_of


def on(rows, *cells, **others):
    """Results on some of the ten images."""
    rows = np.array(rows)
    base = results(**others)
    chosen = []
    for one in cells:
        said = one.verdicts.take(rows)
        tally = tally_of(said, TRUTH[rows])
        chosen.append(
            replace(one, verdicts=said, changes=one.changes.take(rows), counts=tally, rates=rate(tally), examples=())
        )
    data = replace(base.data, sample=tuple(np.array(SAMPLE)[rows].tolist()), labels=pack_labels(TRUTH[rows]))
    benign = base.benign.verdicts.take(rows)
    tally = tally_of(benign, TRUTH[rows])
    score = replace(base.benign, verdicts=benign, counts=tally, rates=rate(tally))
    return replace(base, data=data, benign=score, cells=tuple(chosen), worst_cases=())


def test_one_part_is_itself():
    found = results(cell())
    assert join([found]) is found


def test_parts_on_the_same_images_are_one():
    first, second = results(cell(fooled=3)), results(cell(attack="pgd", verdicts=columns({5, 6})), complete=False)
    joined = join([first, second])
    assert [one.attack for one in joined.cells] == ["igs", "pgd"]
    assert joined.worst_cases == results(*first.cells, *second.cells).worst_cases
    assert joined.worst_cases[0].fooled.value == 0.5
    assert not joined.complete
    assert len(joined.self_check) == 1


def test_an_attack_of_both_parts_is_counted_once_on_most_images():
    few, many = on(range(4), cell(fooled=2)), results(cell(fooled=5))
    for parts in ([few, many], [many, few]):
        assert join(parts).cells == many.cells


def test_samples_that_differ_share_some_images():
    whole = results(cell(verdicts=columns({0, 1, 8})))
    part = on([0, 1, 2, 3], cell(attack="pgd", verdicts=columns({1, 2, 9})))
    joined = join([part, whole])
    assert joined.data == whole.data
    pgd = next(one for one in joined.cells if one.attack == "pgd")
    assert (pgd.counts.n, pgd.counts.fooled, pgd.verdicts, pgd.changes) == (4, 2, None, None)
    assert pgd.detection is not None
    (row,) = joined.worst_cases
    assert (row.n, row.fooled.value) == (4, 3 / 4)


def test_samples_without_a_common_image_have_no_worst_case():
    joined = join([on([0, 1, 2], cell()), on([5, 6], cell(attack="pgd"))])
    assert joined.worst_cases == ()
    assert len(joined.cells) == 2


def test_parts_of_schema_1_are_joined_but_count_for_no_worst_case():
    old = results(replace(cell(attack="pgd", fooled=9), verdicts=None, changes=None, detection=None))
    old = replace(old, benign=replace(old.benign, verdicts=None), data=replace(old.data, labels=None), worst_cases=())
    joined = join([old, results(cell(fooled=2))])
    assert {one.attack for one in joined.cells} == {"igs", "pgd"}
    assert joined.worst_cases[0].fooled.value == 0.2
    assert join([old, old]).worst_cases == ()


def test_probes_and_availability_come_from_whoever_has_them():
    probe = Probe(purpose="doubled", of="x", cell=cell())
    joined = join([results(cell()), results(cell(attack="pgd"), probes=(probe,))])
    assert joined.probes == (probe,)
    assert join([on(range(3), cell(), probes=()), results(probes=(probe,))]).probes == (probe,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, model=replace(r.model, digest="1" * 64)), "expected results of one guard, got 0000"),
        (lambda r: replace(r, data=replace(r.data, digest="1" * 64)), "expected results of one data set, got 0000"),
        (lambda r: replace(r, data=replace(r.data, eight_bit=True)), "of one rounding to 8 bits, got False and True"),
    ],
    ids=["guard", "data", "rounding"],
)
def test_parts_that_do_not_belong_together(change, message):
    with pytest.raises(UsageError, match=message):
        join([results(), results(), change(results())])


def test_nothing_to_join():
    with pytest.raises(UsageError, match="expected at least one results file, got none"):
        join([])
