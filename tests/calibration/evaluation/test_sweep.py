from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from calibration.attacks import Fgs, Igs, Pgd
from calibration.availability import measure_availability
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.gradients import GradientGraph
from calibration.judge import round_to_images
from calibration.metrics import count
from calibration.objectives.rule import WrongConfidence
from calibration.pixels import to_pixels
from calibration.results import Results
from calibration.results.worst_case import worst_cases
from calibration.stamping import stamp
from calibration.thresholds import CalibrationConfig, calibrate
from runtime.artifact import read_artifact
from runtime.errors import ModelError, UsageError
from runtime.guard import Guard
from tests.calibration.guards import CLASSMAP, assembled, dataset, document, guard_file

OPTIONS = {"device": "cpu", "threads": 1}
FGS = Fgs(epsilon=0.1)
N = 60


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One guard and every file an attacker may bring."""
    folder = tmp_path_factory.mktemp("guards")
    for name, model in {
        "guard": guard_file(recipe={"lock": "trained"}),
        "doubtful": guard_file(doubt=3.0),
        "twin": guard_file(pair=False, sharpness=3.0),
        "unlocked": guard_file(recipe={"lock": "none"}, sharpness=5.0),
        "substitute": guard_file(pair=False, sharpness=2.0),
        "other": guard_file(classes=("a", "b", "c", "d")),
    }.items():
        (folder / f"{name}.onnx").write_bytes(model)
    return {path.stem: path for path in folder.iterdir()}


def run(files, **options):
    config = EvaluationConfig(**{"attacks": (FGS,), "threats": ("grey-box",), "n": N, **OPTIONS} | options)
    return evaluate(config, files["guard"], dataset())


def test_counts_are_those_of_the_attack_done_by_hand(files):
    found = run(files, eight_bit=True)
    test = dataset().test
    rows = test.sample(N)
    images, labels = test.images[rows], test.labels[rows]
    graph = GradientGraph(files["guard"].read_bytes(), of=["logits"], **OPTIONS)
    x_adv = FGS(graph, to_pixels(images), labels).x_adv
    with Guard(files["guard"], **OPTIONS) as guard:
        benign, attacked = guard.classify(images), guard.classify(round_to_images(x_adv, images, budget=FGS.budget))
    for counts, verdicts in ((found.benign.counts, benign), (found.cells[0].counts, attacked)):
        right = verdicts.labels == labels
        assert counts.n == N
        assert counts.correct == (right & verdicts.accepted).sum()
        assert counts.rejected == (~verdicts.accepted).sum()
        assert counts.fooled == (~right & verdicts.accepted).sum()
        assert counts.right_label == right.sum()
    assert found.data.sample == tuple(rows)
    assert found.complete


@pytest.mark.parametrize("eight_bit", [False, True], ids=["float", "8-bit"])
def test_every_image_keeps_its_verdict(files, eight_bit):
    found = run(files, eight_bit=eight_bit, attacks=(FGS, Igs(epsilon=0.1, steps=3)))
    test = dataset().test
    assert found.data.truth.tolist() == test.labels[list(found.data.sample)].tolist()
    with Guard(files["guard"], **OPTIONS) as guard:
        benign = guard.classify(test.images[list(found.data.sample)])
    assert_said(found.benign.verdicts, benign)
    for cell in found.cells:
        assert count(cell.verdicts.outcomes(found.data.truth)) == cell.counts
        assert cell.changes.norm("linf").max() == pytest.approx(cell.largest_linf)
        assert cell.changes.norm("l2").mean() == pytest.approx(cell.mean_l2)
        for example in cell.examples:
            row = found.data.sample.index(example.index)
            said = cell.verdicts
            assert said.label_array[row] == example.attacked.label
            assert said.accepted_array[row] == example.attacked.accepted
            assert said.confidence_array[row] == np.float32(example.attacked.confidence)


def assert_said(columns, verdicts):
    np.testing.assert_array_equal(columns.label_array, verdicts.labels)
    np.testing.assert_array_equal(columns.accepted_array, verdicts.accepted)
    np.testing.assert_array_equal(columns.confidence_array, verdicts.confidence)


@pytest.mark.parametrize("eight_bit", [False, True], ids=["float", "8-bit"])
def test_the_hard_rule_is_that_of_the_file_at_threshold_0(files, tmp_path, eight_bit):
    calibrated = calibrate(files["guard"], dataset(), CalibrationConfig(acceptance=0.7, n=N), **OPTIONS)
    (tmp_path / "calibrated.onnx").write_bytes(calibrated.model)
    strict = run(files | {"guard": tmp_path / "calibrated.onnx"}, eight_bit=eight_bit)
    open_ = run(files, eight_bit=eight_bit)
    for one, other in ((strict.benign, open_.benign), (strict.cells[0], open_.cells[0])):
        np.testing.assert_array_equal(one.verdicts.pass_array, other.verdicts.accepted_array)
        kept = one.verdicts.confidence_array >= np.float32(strict.model.threshold)
        np.testing.assert_array_equal(one.verdicts.accepted_array, one.verdicts.pass_array & kept)
        assert one.verdicts.accepted_array.sum() < one.verdicts.pass_array.sum()
    assert strict.cells[0].detection.auroc == open_.cells[0].detection.auroc
    assert strict.cells[0].detection.robust_error != open_.cells[0].detection.robust_error


def test_figures_of_all_attacks_together(files):
    found = run(files, attacks=(FGS, Fgs(epsilon=0.2)), threats=("nearly-white-box", "grey-box"))
    assert found.worst_cases == worst_cases(found.benign.verdicts, found.data.truth, found.cells)
    assert [(row.epsilon, row.adaptive) for row in found.worst_cases] == [
        (0.2, False),
        (0.2, True),
        (0.1, False),
        (0.1, True),
    ]
    assert found.worst_cases[0].fooled.value >= max(cell.rates.fooled.value for cell in found.cells)


def test_benign_images_are_changed_harmlessly(files):
    found = run(files)
    test = dataset().test
    rows = list(found.data.sample)
    with Guard(files["guard"], **OPTIONS) as guard:
        expected = tuple(measure_availability(guard, test.images[rows], test.labels[rows]))
    assert found.availability == expected
    assert found.availability[0].accepted.value == 1 - found.benign.rates.rejected.value


def test_every_tensor_that_was_taken_for_logits_is_looked_at(files):
    found = run(files, threats=("nearly-white-box", "grey-box"), twin=files["twin"])
    assert [(one.file, one.tensor, one.operator, one.probabilities) for one in found.logits_checks] == [
        (str(files["guard"]), "logits", "Gemm", False),
        (str(files["guard"]), "robust_logits", "Gemm", False),
        (str(files["twin"]), "logits", "Gemm", False),
    ]


def test_every_threat_is_crafted_on_its_own_file_strongest_first(files):
    found = run(
        files,
        threats=("black-box", "grey-box"),
        attacks=(FGS, Igs(epsilon=0.1, steps=3)),
        twin=files["twin"],
        unlocked=files["unlocked"],
        substitutes=(files["substitute"],),
    )
    names = [(cell.threat, cell.reading, cell.source.file) for cell in found.cells[::2]]
    assert names == [
        ("grey-box", "z-star", str(files["guard"])),
        ("grey-box", "z", str(files["unlocked"])),
        ("grey-box", "oracle", str(files["twin"])),
        ("black-box", "substitute", str(files["substitute"])),
    ]
    for cell in found.cells:
        artifact = read_artifact(cell.source.file)
        assert (cell.source.digest, cell.source.sha256) == (artifact.spec.digest, artifact.sha256)
        assert cell.source.tensor == cell.parameters["objective"]["of"] == "logits"
    assert [check.file for check in found.self_check] == [name[2] for name in names]
    assert all(check.relative_error < 0.1 for check in found.self_check)


def test_a_defended_substitute_is_followed_with_and_without_its_rule(files):
    attack = Pgd(epsilon=0.2, steps=5, restarts=1)
    found = run(files, threats=("black-box",), attacks=(attack,), substitutes=(files["doubtful"], files["substitute"]))
    kinds = {(cell.reading, cell.source.file, cell.source.tensor, cell.adaptive) for cell in found.cells}
    assert kinds == {
        ("rehearsed", str(files["doubtful"]), "logits+robust_logits", False),
        ("substitute", str(files["doubtful"]), "logits", False),
        ("substitute", str(files["substitute"]), "logits", False),
    }
    rehearsed = next(cell for cell in found.cells if cell.reading == "rehearsed")
    assert rehearsed.parameters["objective"] == {"name": "WrongConfidence", "classmap": CLASSMAP, "logits": "logits"}
    test = dataset().test
    rows = test.sample(N)
    graph = GradientGraph(files["doubtful"].read_bytes(), of=("logits", "robust_logits"), **OPTIONS)
    by_hand = replace(attack, objective=WrongConfidence(classmap=CLASSMAP))
    x_adv = by_hand(graph, to_pixels(test.images[rows]), test.labels[rows]).x_adv
    change = np.abs(x_adv - to_pixels(test.images[rows])).reshape(N, -1).max(axis=1)
    np.testing.assert_allclose(rehearsed.changes.norm("linf"), change, atol=1e-6)


@pytest.mark.parametrize("eight_bit", [False, True], ids=["float", "8-bit"])
@pytest.mark.parametrize(
    "attack",
    [Fgs(epsilon=0.2), Igs(epsilon=0.2), Pgd(epsilon=0.2, steps=20, restarts=2)],
    ids=["fgs", "igs", "pgd"],
)
def test_knowing_the_rule_fools_more(files, attack, eight_bit):
    """The two heads of this guard follow different weights: what moves Z* alone is rejected."""
    found = run(
        files | {"guard": files["doubtful"]},
        attacks=(attack,),
        threats=("nearly-white-box", "grey-box"),
        eight_bit=eight_bit,
    )
    knowing, ignorant = found.cells
    assert (knowing.threat, knowing.reading, knowing.adaptive) == ("nearly-white-box", "pair", True)
    assert (ignorant.threat, ignorant.reading, ignorant.adaptive) == ("grey-box", "z-star", False)
    assert knowing.source.tensor == "logits+robust_logits"
    assert knowing.parameters["objective"] == {
        "name": "WrongConfidence",
        "classmap": CLASSMAP,
        "logits": "logits",
    }
    assert knowing.counts.fooled > 1.2 * ignorant.counts.fooled > found.benign.counts.fooled
    assert knowing.counts.right_label >= ignorant.counts.right_label


def test_restarts_go_on_only_where_the_guard_is_not_fooled_yet(files):
    guards = files | {"guard": files["doubtful"]}
    once, twice = (
        run(guards, attacks=(Pgd(epsilon=0.15, steps=4, restarts=starts),), threats=("nearly-white-box",)).cells[0]
        for starts in (1, 2)
    )
    left = once.counts.n - once.counts.fooled
    assert once.gradients_per_image == 5
    assert 0 < left < N
    assert twice.gradients_per_image == pytest.approx(5 + 5 * left / N)
    assert twice.counts.fooled >= once.counts.fooled


def test_single_head_is_attacked_by_its_own_rule(files):
    found = run(files | {"guard": files["twin"]}, threats=("nearly-white-box",))
    [cell] = found.cells
    assert (cell.reading, cell.adaptive, cell.source.tensor) == ("confidence", True, "logits")
    assert (cell.parameters["objective"]["name"], cell.parameters["objective"]["classmap"]) == ("PairMargin", None)
    assert cell.counts.fooled > found.benign.counts.fooled


def test_distortion_budget_and_cost_are_recorded(files):
    found = run(files, attacks=(Igs(epsilon=0.1, steps=3),))
    [cell] = found.cells
    assert cell.parameters["step_size"] == pytest.approx(2.5 * 0.1 / 3)
    assert (cell.parameters["steps"], cell.parameters["batch_size"]) == (3, 128)
    assert 0.05 < cell.mean_linf <= cell.largest_linf <= 0.1 + 1e-6
    assert cell.mean_linf <= cell.mean_l2 <= 0.1 * np.sqrt(30) + 1e-6
    assert (cell.gradients_per_image, cell.zero_gradients) == (3.0, 0)
    assert cell.seconds > 0


def test_a_greater_budget_fools_more_and_a_budget_of_zero_changes_nothing(files):
    found = run(files, attacks=tuple(Fgs(epsilon=epsilon) for epsilon in (0.0, 0.05, 0.2)))
    by_epsilon = {cell.parameters["epsilon"]: cell for cell in found.cells}
    assert by_epsilon[0.0].counts == found.benign.counts
    assert by_epsilon[0.0].largest_linf == 0
    right = [by_epsilon[epsilon].counts.right_label for epsilon in (0.0, 0.05, 0.2)]
    assert right == sorted(right, reverse=True)
    assert right[-1] < right[0] / 2


def test_pictures_are_of_the_sample_and_show_both_verdicts(files):
    found = run(files, eight_bit=True)
    [cell] = found.cells
    assert 0 < len(cell.examples) <= 12
    test = dataset().test
    with Guard(files["guard"], **OPTIONS) as guard:
        for example in cell.examples:
            assert example.index in found.data.sample
            assert example.label == test.labels[example.index]
            verdict = guard.classify(test.images[example.index])[0]
            assert (example.benign.label, example.benign.accepted) == (verdict.label, verdict.accepted)
            assert example.benign_image != example.attacked_image


def without_time(results):
    return replace(results, cells=tuple(replace(cell, seconds=0.0) for cell in results.cells))


@pytest.mark.parametrize("eight_bit", [False, True], ids=["float", "8-bit"])
def test_the_same_again(files, eight_bit):
    attacks = (FGS, Igs(epsilon=0.1, steps=2, random_start=True, seed=3))
    first, second = (run(files, attacks=attacks, eight_bit=eight_bit) for _ in range(2))
    assert without_time(first) == without_time(second)
    assert run(files, seed=1).data.sample != first.data.sample


def test_results_survive_their_file(files, tmp_path):
    found = run(files, command="cmt attack guard.onnx")
    found.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == found


def test_threshold_is_part_of_the_verdict(files, tmp_path):
    data = dataset()
    config = CalibrationConfig(acceptance=0.7, n=N)
    (tmp_path / "calibrated.onnx").write_bytes(calibrate(files["guard"], data, config, **OPTIONS).model)
    strict = run(files | {"guard": tmp_path / "calibrated.onnx"})
    open_ = run(files)
    assert strict.model.threshold > 0
    assert strict.model.calibration["images"] == 240 - N
    assert strict.cells[0].counts.rejected > open_.cells[0].counts.rejected
    assert strict.cells[0].counts.right_label == open_.cells[0].counts.right_label


def test_undefended_file_is_attacked_the_same_way(files):
    found = run(files | {"guard": files["twin"]})
    assert found.model.rule == "confidence"
    assert found.cells[0].counts.rejected == 0
    assert found.cells[0].rates.fooled.value > found.benign.rates.fooled.value


def test_unfinished_results_after_each_cell(files):
    seen = []
    config = EvaluationConfig(attacks=(FGS, Fgs(epsilon=0.2)), threats=("grey-box",), n=N, **OPTIONS)
    found = evaluate(config, files["guard"], dataset(), on_cell=seen.append)
    assert [(len(results.cells), results.complete) for results in seen] == [(1, False), (2, False)]
    assert found == replace(seen[-1], complete=True)


def test_interruption_keeps_what_was_finished(files):
    seen = []

    def interrupt(results):
        seen.append(results)
        if len(results.cells) == 2:
            raise KeyboardInterrupt

    attacks = tuple(Fgs(epsilon=e) for e in (0.1, 0.2, 0.3))
    config = EvaluationConfig(attacks=attacks, n=N, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, files["guard"], dataset(), on_cell=interrupt)
    assert len(seen[-1].cells) == 2


def test_progress_names_each_piece_of_work(files):
    told = {}

    def progress(what):
        told[what] = []
        return lambda *pair: told[what].append(pair)

    evaluate(EvaluationConfig(attacks=(FGS,), n=N, **OPTIONS), files["guard"], dataset(), progress=progress)
    assert told == {
        "benign images": [(N, N)],
        "nearly-white-box pair: fgs, epsilon 0.1": [(N, N)],
        "grey-box z-star: fgs, epsilon 0.1": [(N, N)],
    }


def test_all_images_where_there_are_fewer_than_asked_for(files):
    assert run(files, n=10_000).benign.counts.n == 240


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"twin": "unlocked"}, r"--twin .*unlocked\.onnx: expected an undefended file, got one with the rule pair"),
        (
            {"unlocked": "guard"},
            "--unlocked .*: expected a defended file trained with --lock none, .* the lock trained",
        ),
        ({"unlocked": "twin"}, "--unlocked .*: expected a defended file .* got the rule confidence"),
        ({"twin": "none"}, r"none\.onnx.*expected a readable model file"),
        ({"substitutes": "other", "threats": ("black-box",)}, r"templates: expected the classes of .*other\.onnx"),
        ({"substitutes": "twin"}, "--substitute: expected --threat black-box beside it"),
        ({"n": 0}, "-n: expected at least 1 image, got 0"),
        ({"seed": -1}, "--seed: expected 0 or more, got -1"),
        ({"attacks": ()}, "attacks: expected one or more different ones"),
        ({"attacks": (FGS, FGS)}, "attacks: expected one or more different ones"),
    ],
    ids=["twin", "lock", "rule", "missing", "classes", "unused", "n", "seed", "no attack", "twice"],
)
def test_files_and_options_that_do_not_fit(files, options, message):
    missing = files["guard"].with_name("none.onnx")
    given = {
        name: files.get(value, missing) if name in ("twin", "unlocked", "substitutes") else value
        for name, value in options.items()
    }
    if "substitutes" in given:
        given["substitutes"] = (given["substitutes"],)
    with pytest.raises((UsageError, ModelError), match=message):
        run(files, **given)


def test_images_of_another_size(files):
    small = replace(dataset(), test=replace(dataset().test, images=np.zeros((240, 6, 6, 1), np.uint8)))
    small = replace(small, train=small.test)
    with pytest.raises(UsageError, match=r"expected images of 6x5x1 as .*guard\.onnx takes, got 6x6x1"):
        evaluate(EvaluationConfig(attacks=(FGS,), n=N), files["guard"], small)


def test_network_that_cannot_be_differentiated(files, tmp_path):
    model = assembled()
    position = next(index for index, node in enumerate(model.graph.node) if "flat" in node.output)
    model.graph.node[position].output[0] = "whole"
    model.graph.node.insert(position + 1, helper.make_node("MeanVarianceNormalization", ["whole"], ["flat"], axes=[1]))
    path = tmp_path / "odd.onnx"
    path.write_bytes(stamp(model, document(model)))
    with pytest.raises(ModelError, match="MeanVarianceNormalization"):
        run(files | {"guard": path})
