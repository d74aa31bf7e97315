import json
import platform
from importlib.metadata import version

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from calibration.adoption import Adoption
from calibration.attacks import Fgs, Igs
from calibration.evaluation.provenance import data_record, environment, model_record, parameters
from calibration.evaluation.victims import open_victim
from calibration.objectives import CrossEntropy
from runtime.artifact import read_artifact
from runtime.cpus import usable_cpus
from runtime.errors import ModelError
from tests.calibration.guards import CLASSES, CLASSMAP, dataset, guard_file
from tests.calibration.test_adoption import foreign


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "confidence"])
def test_model_record_says_what_the_file_says(tmp_path, pair):
    (tmp_path / "guard.onnx").write_bytes(guard_file(pair=pair, recipe={"lock": "trained"}))
    artifact = read_artifact(tmp_path / "guard.onnx")
    record = model_record(open_victim(tmp_path / "guard.onnx", dataset(), adoption=None))
    assert record.file == str(tmp_path / "guard.onnx")
    assert (record.digest, record.sha256, record.graph) == (artifact.spec.digest, artifact.sha256, artifact.graph)
    assert (record.classes, record.classmap) == (CLASSES, CLASSMAP if pair else None)
    assert (record.rule, record.recipe) == ("pair" if pair else "confidence", {"lock": "trained"})
    assert record.input["height"] == 6


def test_data_record_names_every_attacked_image():
    data = dataset()
    record = data_record(data, np.array([2, 7]), seed=4, eight_bit=True)
    assert (record.name, record.split, record.images) == ("templates", "test", 240)
    assert (record.sample, record.seed, record.eight_bit) == ((2, 7), 4, True)
    assert record.digest == data.test.digest


def test_environment_is_this_one():
    record = environment(device="cpu", threads=None)
    assert (record.cmt, record.onnx) == (version("cmt"), version("onnx"))
    assert (record.numpy, record.onnxruntime) == (np.__version__, onnxruntime.__version__)
    assert (record.python, record.threads) == (platform.python_version(), usable_cpus())
    assert environment(device="cpu", threads=3).threads == 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            Fgs(epsilon=0.1),
            {"epsilon": 0.1, "objective": {"name": "CrossEntropy", "of": "logits", "targeted": False}},
        ),
        (
            Igs(epsilon=0.2, steps=10, objective=CrossEntropy(of="robust_logits", targeted=True)),
            {
                "epsilon": 0.2,
                "step_size": 0.05,
                "norm": "linf",
                "steps": 10,
                "random_start": False,
                "objective": {"name": "CrossEntropy", "of": "robust_logits", "targeted": True},
                "seed": 0,
            },
        ),
    ],
    ids=["fgs", "igs"],
)
def test_every_hyper_parameter_is_plain_json(config, expected):
    assert json.loads(json.dumps(parameters(config))) == expected


def test_what_is_wrong_with_somebody_elses_file_is_said_of_that_file(tmp_path):
    model = foreign()
    model.graph.node[-1].output[0] = "still"
    model.graph.node.append(helper.make_node("RandomNormalLike", ["still"], ["noise"]))
    model.graph.node.append(helper.make_node("Add", ["still", "noise"], ["scores"]))
    file = tmp_path / "theirs.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=f"^{str(file)!a}: .*RandomNormalLike"):
        open_victim(file, dataset(), adoption=Adoption())
