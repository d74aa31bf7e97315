import json
from dataclasses import replace

import pytest

from calibration.metrics import Interval, rate
from calibration.results import PoolResults, Results, load_results
from calibration.results.records import Probe
from runtime.errors import UsageError
from tests.calibration.small_results import cell, columns, counts, results

NOTHING = Interval(0.0, 0.0, 0.3)


def whole():
    return results(
        cell(fooled=4, epsilon=0.3),
        cell(attack="pgd", adaptive=True),
        probes=(Probe(purpose="doubled", of="IGS", cell=cell()),),
    )


def changed(found, index=0, **others):
    cells = list(found.cells)
    cells[index] = replace(cells[index], **others)
    return replace(found, cells=tuple(cells))


def with_worst(found, **others):
    first, *rest = found.worst_cases
    return replace(found, worst_cases=(replace(first, **others), *rest))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param(lambda one: changed(one, 1, counts=counts(0), rates=rate(counts(0))), "IGS at ε", id="counts"),
        pytest.param(lambda one: changed(one, 1, rates=rate(counts(0))), "IGS at ε", id="rates"),
        pytest.param(lambda one: changed(one, 1, verdicts=columns({7})), "IGS at ε", id="verdicts"),
        pytest.param(
            lambda one: changed(one, 1, rates=replace(rate(counts(4)), error_when_accepted=None)), "IGS", id="undefined"
        ),
        pytest.param(
            lambda one: replace(one, benign=replace(one.benign, rates=rate(counts(3)))),
            "the benign images",
            id="benign",
        ),
        pytest.param(
            lambda one: replace(one, probes=(replace(one.probes[0], cell=cell(rates=rate(counts(0)))),)),
            "IGS",
            id="of a sanity check",
        ),
        pytest.param(
            lambda one: changed(one, 1, detection=replace(one.cells[1].detection, auroc=Interval(0.999, 0.99, 1.0))),
            "detecting .*IGS",
            id="AUROC",
        ),
        pytest.param(lambda one: changed(one, 1, detection=None), "detecting .*IGS", id="no detection"),
        pytest.param(
            lambda one: changed(one, 1, detection=replace(one.cells[1].detection, threshold_at_99=0.1)),
            "detecting .*IGS",
            id="threshold at 99 %",
        ),
        pytest.param(lambda one: changed(one, 1, mean_l2=0.01), "figures of .*IGS", id="mean L2"),
        pytest.param(lambda one: changed(one, 1, zero_gradients=11), "figures of .*IGS", id="zero gradients"),
        pytest.param(
            lambda one: replace(one, model=replace(one.model, threshold=0.9)), "the benign images", id="threshold"
        ),
        pytest.param(lambda one: with_worst(one, fooled=NOTHING), "worst cases", id="fooled together"),
        pytest.param(lambda one: with_worst(one, fooled_at_99=None), "worst cases", id="fooled together at 99 %"),
        pytest.param(lambda one: replace(one, worst_cases=()), "worst cases", id="no worst case"),
        pytest.param(lambda one: replace(one, cells=one.cells[:1]), "worst cases", id="an attack taken out"),
    ],
)
def test_what_was_changed_by_hand_is_refused(change, name, tmp_path):
    whole().save(tmp_path / "honest.json")
    assert Results.load(tmp_path / "honest.json") == whole()
    change(whole()).save(tmp_path / "edited.json")
    with pytest.raises(UsageError, match=rf"edited\.json: results: expected .*{name}.* follow from") as refused:
        load_results(tmp_path / "edited.json")
    assert "instead of changing the file" in str(refused.value)


def test_a_member_of_a_pool_that_was_changed_is_refused(tmp_path):
    other = changed(whole(), 1, rates=rate(counts(0)))
    PoolResults(members=(whole(), other)).save(tmp_path / "pool.json")
    with pytest.raises(UsageError, match=r"pool\.json: results: expected figures of .*IGS"):
        load_results(tmp_path / "pool.json")


def test_a_probe_on_the_twin_is_judged_by_the_twin(tmp_path):
    """What it rejects, and how well it detects, has nothing to do with the file's threshold."""
    twin = Probe(purpose="twin", of="IGS", cell=cell(detection=None))
    found = replace(whole(), probes=(twin,))
    found.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == found


def test_rates_of_another_version_of_scipy_are_the_same(tmp_path):
    near = {
        name: None if one is None else Interval(*(x + 1e-9 for x in one)) for name, one in vars(rate(counts(4))).items()
    }
    changed(whole(), 1, rates=type(rate(counts(4)))(**near)).save(tmp_path / "results.json")
    Results.load(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda one: one["benign"].update(verdicts=None), "labels and a verdict on every", id="benign"),
        pytest.param(lambda one: one["data"].update(labels=None), "labels and a verdict on every image", id="labels"),
        pytest.param(
            lambda one: one["cells"][1].update(verdicts=None, changes=None), "labels and a verdict on", id="an attack"
        ),
        pytest.param(
            lambda one: one["cells"][0]["parameters"].update(epsilon="big"), "epsilon as a number", id="epsilon as text"
        ),
        pytest.param(
            lambda one: one["cells"][0]["parameters"].update(epsilon=10**400), "epsilon as a number", id="huge epsilon"
        ),
        pytest.param(lambda one: one["model"].update(input={}), "model.input: expected that of a guard", id="no input"),
        pytest.param(
            lambda one: one["model"]["input"].update(height="28"), r"model\.input: .*input\.height", id="height as text"
        ),
    ],
)
def test_what_figures_and_reports_need_cannot_be_taken_out(change, message, tmp_path):
    document = whole().to_json()
    change(document)
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=message):
        load_results(tmp_path / "results.json")
