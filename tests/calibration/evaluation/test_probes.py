import numpy as np
import pytest

from calibration.attacks import Fgs, Pgd
from calibration.attacks.apgd import Apgd
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.square import Square
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.results import Results
from calibration.sanity import check_sanity
from tests.calibration.guards import dataset, guard_file

N = 40


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guards")
    (folder / "guard.onnx").write_bytes(guard_file(doubt=3.0))
    (folder / "twin.onnx").write_bytes(guard_file(pair=False, sharpness=3.0))
    return folder


def run(files, *attacks, threats=("nearly-white-box", "grey-box"), twin=True):
    config = EvaluationConfig(
        attacks=attacks,
        threats=threats,
        twin=files / "twin.onnx" if twin else None,
        n=N,
        sanity=True,
        device="cpu",
        threads=1,
    )
    return evaluate(config, files / "guard.onnx", dataset())


def test_variants_of_the_strongest_attack(files, tmp_path):
    found = run(files, Fgs(epsilon=0.05), Pgd(epsilon=0.2, steps=4, restarts=2))
    cells = {probe.purpose: probe.cell for probe in found.probes}
    assert list(cells) == ["one step", "doubled", "half", "unbounded", "noise", "decisions", "twin"]
    assert {probe.of for probe in found.probes} == {"nearly-white-box pair PGD at ε\xa0=\xa00.2"}
    assert (cells["one step"].attack, cells["one step"].parameters["epsilon"]) == ("fgs", 0.2)
    assert (cells["doubled"].parameters["steps"], cells["doubled"].parameters["restarts"]) == (8, 4)
    assert cells["doubled"].counts.fooled >= found.cells[0].counts.fooled
    assert (cells["half"].parameters["epsilon"], cells["half"].reading) == (0.1, "z-star")
    assert cells["half"].parameters["objective"]["name"] == "CrossEntropy"
    assert cells["unbounded"].parameters["epsilon"] == 1.0
    assert cells["unbounded"].counts.fooled > cells["doubled"].counts.fooled
    assert (cells["noise"].attack, cells["noise"].source.tensor) == ("noise", "verdicts")
    asked = cells["decisions"]
    assert (asked.attack, asked.parameters["epsilon"], asked.source.tensor) == ("square", 0.2, "verdicts")
    assert cells["twin"].source.file.endswith("twin.onnx")
    assert cells["twin"].counts.rejected == 0
    assert (found.repetition.images, found.repetition.different) == (8, 0)
    verdicts = {one.name: one.verdict for one in check_sanity(found)}
    assert [name for name, verdict in verdicts.items() if verdict == "not run"] == [
        "attacks held to ε beat free ones",
        "the lock hides nothing",
    ]
    found.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").probes[0].cell.counts == found.probes[0].cell.counts


def test_gradients_that_lead_astray_are_found_without_gradients(tmp_path):
    """A ripple on every pixel has a gradient everywhere, and none of them leads anywhere."""
    verdicts = {}
    for name, ripple in (("plain", 0.0), ("masked", 0.01)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "guard.onnx").write_bytes(guard_file(pair=False, ripple=ripple))
        found = run(tmp_path / name, Pgd(epsilon=0.2, steps=10, restarts=1), twin=False)
        verdicts[name] = {one.name: one.verdict for one in check_sanity(found)}
    assert verdicts["plain"]["gradients beat decisions"] == "passed"
    assert verdicts["masked"]["every image has a gradient"] == "passed"
    assert verdicts["masked"]["gradients beat decisions"] == "failed"


def test_probes_stay_out_of_the_tables(files):
    attacks = (Pgd(epsilon=0.2, steps=4, restarts=1),)
    found = run(files, *attacks, twin=False)
    assert {cell.attack for cell in found.cells} == {"pgd"}
    assert {row.epsilon for row in found.worst_cases} == {0.2}
    assert "twin" not in {probe.purpose for probe in found.probes}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_of_either_norm(files, norm):
    found = run(files, Apgd(epsilon=0.3, norm=norm, steps=3, restarts=1, all_targets=True), twin=False)
    cells = {probe.purpose: probe.cell for probe in found.probes}
    assert ("one step" in cells) == (norm == "linf")
    assert cells["unbounded"].parameters["epsilon"] == (1.0 if norm == "linf" else pytest.approx(np.sqrt(30)))
    assert cells["doubled"].parameters["steps"] == 6


@pytest.mark.parametrize(
    ("attack", "threat"),
    [(CarliniWagner(steps=3), "nearly-white-box"), (Square(epsilon=0.2, queries=5), "decision-only")],
    ids=["no budget", "no gradients"],
)
def test_nothing_to_vary(files, attack, threat):
    found = run(files, attack, threats=(threat,), twin=False)
    assert (found.probes, found.repetition) == ((), None)
