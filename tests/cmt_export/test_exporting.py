import os
import warnings
from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from calibration.gradients import GradientGraph
from calibration.pixels import to_pixels
from cmt_export.checkpoint import Checkpoint, Schedule
from cmt_export.exporting import build_guard, export, export_network
from cmt_export.lock import Lock
from cmt_export.networks import TRUNKS, build_network
from cmt_export.parity import check_parity
from cmt_export.recipes import Cmt, Undefended
from cmt_export.training import train
from runtime import Guard
from runtime.artifact import read_artifact
from runtime.errors import CmtError, GateFailed, ModelError, UsageError
from tests.cmt_export.conftest import begin
from tests.cmt_export.recipes.quick import QUICK, begin_quickly


@pytest.fixture(scope="module")
def exported(checkpoint_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "guard.onnx"
    export(Checkpoint.load(checkpoint_path), path)
    return path


def test_the_file_keeps_the_contract(exported):
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == [
        "labels", "accepted", "confidence", "logits", "robust_logits",
    ]  # fmt: skip
    inner = {value.name: value for value in model.graph.value_info}
    shape = inner["pixels"].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in shape] == ["N", 1, 8, 8]
    assert "unlocked_logits" in inner
    assert [entry.key for entry in model.metadata_props] == ["cmt.guard"]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert {node.domain for node in model.graph.node} == {""}
    assert os.path.abspath(__file__).split(os.sep)[1].encode() + b"/" not in exported.read_bytes().replace(b"\x00", b"")


def test_plain_onnxruntime_gives_the_verdict_of_the_guard(exported, bars):
    session = onnxruntime.InferenceSession(exported.read_bytes(), providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(bars.test.images)
    labels, accepted, confidence = session.run(["labels", "accepted", "confidence"], {"images": images})
    with Guard(exported, device="cpu") as guard:
        verdicts = guard.classify(images)
    np.testing.assert_array_equal(verdicts.labels, labels)
    np.testing.assert_array_equal(verdicts.accepted, accepted)
    np.testing.assert_array_equal(verdicts.confidence, confidence)
    assert labels.dtype == np.int32
    assert (labels == bars.test.labels).mean() > 0.95


def test_the_metadata_says_where_it_comes_from(exported, checkpoint):
    spec = read_artifact(exported).spec
    assert spec.classes == ("vertical", "horizontal", "diagonal")
    assert spec.classmap == (1, 2, 0)
    assert spec.input_shape == (8, 8, 1)
    assert spec.threshold == 0
    assert spec.calibration is None
    assert spec.recipe["epsilon"] == 0.2
    assert spec.recipe["trunk"] == "oracle"
    assert spec.training["data"] == checkpoint.data["train"]
    assert spec.golden.accepted


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_every_opset(opset, checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "guard.onnx", opset=opset)
    model = onnx.load(tmp_path / "guard.onnx")
    assert model.opset_import[0].version == opset
    assert exported.parity.different == 0


@pytest.mark.parametrize("opset", [17, 22])
def test_other_opsets_are_refused(opset, checkpoint, tmp_path):
    with pytest.raises(UsageError, match=f"--opset: expected 18 to 21, got {opset}"):
        export(checkpoint, tmp_path / "guard.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


OWN_TRUNK = "tests.cmt_export.residual:make_trunk"


@pytest.mark.parametrize(
    ("trunk", "lock"),
    [*((trunk, "trained") for trunk in TRUNKS), *((OWN_TRUNK, lock) for lock in get_args(Lock))],
)
def test_every_trunk_and_lock(trunk, lock, bars, tmp_path):
    run = begin(bars, trunk=trunk, recipe=Cmt(lock=lock), schedule=Schedule(epochs=1, batch_size=128))
    exported = export(train(run, tmp_path / "model.pt"), tmp_path / "guard.onnx", trunk=trunk)
    assert exported.parity.different == 0
    assert (b"unlocked_logits" in exported.model) == (lock != "none")


def test_the_contrast_curve_is_in_the_graph(bars, tmp_path):
    """Against the same weights without it, on pixels that were squashed before."""
    recipe = QUICK["hardened"]
    checkpoint = train(begin_quickly(bars, recipe, epochs=1), tmp_path / "model.pt")
    exported = export(checkpoint, tmp_path / "guard.onnx", trunk=OWN_TRUNK)
    pixels = to_pixels(bars.test.images[:8])
    graph = GradientGraph(exported.model, of=["logits"], device="cpu", threads=1)
    with torch.no_grad():
        expected = checkpoint.build(OWN_TRUNK)(torch.from_numpy(pixels)).logits
    np.testing.assert_allclose(graph.logits(pixels)["logits"], expected, atol=1e-4)
    assert read_artifact(exported.model).spec.recipe["squash"] == 4.0


def test_a_file_of_averaged_weights_decides_like_them(bars, tmp_path):
    recipe = replace(QUICK["none"], averaging=0.9)
    checkpoint = train(begin_quickly(bars, recipe), tmp_path / "model.pt")
    exported = export(checkpoint, tmp_path / "guard.onnx", trunk=OWN_TRUNK)
    assert exported.parity.different == 0
    assert checkpoint.weights["head.bias"].numpy().tobytes() in exported.model


def test_an_undefended_network_becomes_a_file_of_the_rule_confidence(bars, tmp_path):
    run = begin(bars, recipe=Undefended(), classmap=None, schedule=Schedule(epochs=2, batch_size=64))
    exported = export(train(run, tmp_path / "oracle.pt"), tmp_path / "oracle.onnx")
    spec = read_artifact(exported.model).spec
    assert (spec.rule, spec.classmap, spec.recipe["name"]) == ("confidence", None, "none")
    with Guard(exported.model, device="cpu") as guard:
        verdicts = guard.classify(bars.test.images[:5])
    assert verdicts.robust_logits is None
    assert verdicts.accepted.all()


def test_the_gate_fails_and_writes_nothing_when_a_verdict_differs(checkpoint, tmp_path):
    good = build_guard(checkpoint.build(), checkpoint)
    checkpoint.weights["head.bias"] += torch.tensor([0.0, 50.0, 0.0])
    report = check_parity(good, checkpoint.build(), checkpoint)
    assert report.different > 0
    with pytest.raises(GateFailed, match=r"got \d+ different: image \d+ at batch \d+: PyTorch says") as caught:
        report.require()
    assert caught.value.exit_code == 6


class _OneByOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.stack([pixel.flatten() for pixel in pixels]))


def test_a_trunk_whose_graph_would_fix_its_batch_is_refused():
    network = build_network(lambda _: _OneByOne(), input_shape=(1, 8, 8), classes=3, dual=False).eval()
    with pytest.raises(ModelError, match="export: expected"):
        export_network(network, (1, 8, 8), opset=20)


class _Median(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(2).median(-1).values


def test_an_operator_that_torch_cannot_export_is_named():
    network = build_network(lambda _: _Median(), input_shape=(1, 8, 8), classes=3, dual=False).eval()
    with pytest.raises(ModelError, match=r"can export, got: No ONNX function found for .*aten\.median") as caught:
        export_network(network, (1, 8, 8), opset=20)
    assert str(caught.value).isprintable()


def test_exporting_warns_of_nothing_and_prints_nothing(checkpoint, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_network(checkpoint.build(), checkpoint.input_shape, opset=20)
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path):
    checkpoint.weights["head.bias"][0] = float("nan")
    with pytest.raises(CmtError, match="expected finite logits"):
        export(checkpoint, tmp_path / "guard.onnx")
    assert not list(tmp_path.iterdir())


def test_batch_one_two_and_many_agree(exported, bars):
    images = bars.test.images[:7]
    with Guard(exported, device="cpu") as guard:
        together = guard.classify(images)
        for i, image in enumerate(images):
            alone = guard.classify(image)
            assert alone.labels[0] == together.labels[i]
            assert alone.accepted[0] == together.accepted[i]
