import tempfile

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from calibration.datasets import make_dataset
from calibration.golden import choose_golden
from calibration.gradients import GradientGraph
from calibration.judge import Judge
from calibration.pixels import to_pixels
from calibration.quantization.ranges import quiet
from calibration.quantization.static import QuantizationConfig, agreement, quantize
from calibration.stamping import METADATA_KEY, stamp
from calibration.thresholds import CalibrationConfig, calibrate, held_out_images
from runtime.artifact import read_artifact
from runtime.errors import GateFailed, ModelError, StaleError, UsageError
from runtime.guard import Guard
from tests.calibration import guards
from tests.calibration.conv_guards import dataset, guard_file

CONFIG = QuantizationConfig(images=160, n=150)
SHAPES = {"grey": (8, 8, 1), "colour, not square": (10, 12, 3)}


def verdicts_of(model, images):
    with Guard(model, device="cpu", threads=1) as guard:
        return guard.classify(images)


@pytest.fixture(scope="module")
def quantised():
    return quantize(guard_file(), dataset(), CONFIG, threads=1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("kind", "opset"), [("single", 18), ("pair", 20), ("locked", 21)], ids=["single", "pair", "locked"]
)
def test_decides_as_before(kind, opset, shape):
    before = guard_file(kind, shape, opset=opset)
    data = dataset(shape)
    found = quantize(before, data, CONFIG, threads=1)
    images = data.test.images
    old, new = verdicts_of(before, images), verdicts_of(found.model, images)
    assert (old.labels == data.test.labels).mean() > 0.9
    assert old.accepted.mean() > 0.9
    assert agreement(old, new).value >= 0.985
    assert found.bytes == (len(before), len(found.model))
    spec = read_artifact(found.model).spec
    assert (spec.precision, spec.threshold, spec.calibration) == ("int8", 0.0, None)
    assert spec.recipe["quantization"] == {
        "images": 160,
        "n": 150,
        "seed": 0,
        "from": read_artifact(before).spec.digest,
        "method": found.chosen.method,
        "float": found.chosen.floats,
    }


def test_a_network_without_convolutions():
    data = guards.dataset()
    found = quantize(guards.guard_file(), data, QuantizationConfig(images=24, n=100), threads=1)
    assert (
        agreement(*(verdicts_of(model, data.test.images) for model in (guards.guard_file(), found.model))).value > 0.95
    )


def test_rule_and_scaling_stay_in_float(quantised):
    before = onnx.load_model_from_string(guard_file())
    after = onnx.load_model_from_string(quantised.model)

    def rule(model):
        nodes = [node for node in model.graph.node if any(name.startswith("rule_") for name in node.input)]
        return [node.SerializeToString() for node in nodes if node.op_type not in ("Transpose", "Reshape", "Cast")]

    assert rule(after) == rule(before)
    for name in ("threshold", "classmap"):
        assert next(t for t in after.graph.initializer if t.name == name) == next(
            t for t in before.graph.initializer if t.name == name
        )
    kinds = {tensor.data_type for tensor in after.graph.initializer if tensor.name.endswith("_quantized")}
    assert onnx.TensorProto.INT8 in kinds
    zero_points = [t for t in after.graph.initializer if t.name == "pixels_zero_point"]
    assert [t.data_type for t in zero_points] == [onnx.TensorProto.UINT8]
    scales = next(t for t in after.graph.initializer if t.name == "kernel_scale")
    assert list(scales.dims) == [16]
    assert [value.name for value in after.graph.value_info] == ["pixels", "unlocked_logits"]


def test_the_best_trial_is_the_file(quantised):
    assert len(quantised.trials) == 9
    assert len({(trial.method, trial.floats) for trial in quantised.trials}) == 9
    ranks = [(-trial.agreement.value, -trial.float_nodes, trial.confidence_gap) for trial in quantised.trials]
    assert ranks == sorted(ranks)
    held_out = held_out_images(dataset(), n=150, seed=0)
    old, new = verdicts_of(guard_file(), held_out.images), verdicts_of(quantised.model, held_out.images)
    assert quantised.compared == len(held_out) == 250
    assert agreement(old, new) == quantised.chosen.agreement
    assert np.abs(old.confidence - new.confidence).mean() == pytest.approx(quantised.chosen.confidence_gap, abs=1e-4)


def test_golden_image_is_its_own(quantised):
    held_out = held_out_images(dataset(), n=150, seed=0)
    verdicts = Judge(read_artifact(quantised.model), source="images", device="cpu", threads=1).verdicts(held_out.images)
    assert read_artifact(quantised.model).spec.golden == choose_golden(held_out.images, verdicts, threshold=0.0)


def test_the_same_file_twice(quantised):
    assert quantize(guard_file(), dataset(), CONFIG, threads=1).model == quantised.model


@pytest.mark.parametrize("per_class", [False, True], ids=["all classes", "each class"])
def test_a_threshold_is_set_again_for_the_acceptance_on_record(per_class):
    data = dataset()
    asked = CalibrationConfig(acceptance=0.9, per_class=per_class, n=150)
    before = calibrate(guard_file(), data, asked, device="cpu", threads=1)
    found = quantize(before.model, data, CONFIG, threads=1)
    record = read_artifact(found.model).spec.calibration
    assert (record.acceptance, record.per_class, record.precision) == (0.9, per_class, "int8")
    assert record.graph == read_artifact(found.model).graph != read_artifact(before.model).graph
    assert record.reached >= 0.9
    assert found.threshold == (before.threshold, read_artifact(found.model).spec.threshold)
    held_out = held_out_images(data, n=150, seed=0)
    verdicts = verdicts_of(found.model, held_out.images)
    assert verdicts.accepted[verdicts.labels == held_out.labels].mean() == pytest.approx(record.reached)


def test_an_acceptance_out_of_reach_fails_the_gate():
    data = dataset()
    before = calibrate(guard_file(), data, CalibrationConfig(acceptance=0.9, n=150), device="cpu", threads=1)
    shifted = (data.test.images, (data.test.labels + 1) % 4)
    wrong = make_dataset("wrong", data.classes, (data.train.images, data.train.labels), shifted)
    with pytest.raises(GateFailed, match=r"expected to reach the acceptance 0\.9 on record in INT8, got: --accept"):
        quantize(before.model, wrong, CONFIG, threads=1)


def test_it_can_be_differentiated_straight_through(quantised):
    pixels = to_pixels(dataset().test.images[:20])
    labels = np.eye(4, dtype=np.float32)[dataset().test.labels[:20]]
    directions = []
    for model in (guard_file(), quantised.model):
        graph = GradientGraph(model, device="cpu", threads=1)
        directions.append(graph.vjp(pixels, {"logits": labels}).reshape(20, -1))
    assert graph.straight_through
    lengths = [np.linalg.norm(direction, axis=1) for direction in directions]
    cosines = (directions[0] * directions[1]).sum(axis=1) / np.prod(lengths, axis=0)
    assert cosines.min() > 0.9


def test_nothing_is_left_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    quantize(guard_file("single"), dataset(), CONFIG, threads=1)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


BAD = {
    "images": ({"images": 0}, "--images: expected 1 or more, got 0"),
    "n": ({"n": 0}, "-n: expected 1 or more, got 0"),
    "seed": ({"seed": -1}, "--seed: expected 0 or more, got -1"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_refuses_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        QuantizationConfig(**options)


def test_refuses_what_is_quantised_already(quantised):
    with pytest.raises(UsageError, match="expected a file in fp32, got int8; quantise the one it was made from"):
        quantize(quantised.model, dataset(), CONFIG, threads=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: dataset((10, 8, 1)), "expected images of 8x8x1 as the file takes, got 10x8x1"),
        (guards.dataset, r"expected the classes of the file \(ant, bee, cod, doe\), got cat, dog, eel, fox"),
        (lambda: dataset(n_test=200), "expected at least 100 test images beside the attack's -n 150, got 50"),
    ],
    ids=["size", "classes", "too few"],
)
def test_refuses_data_that_does_not_fit(data, message):
    with pytest.raises(UsageError, match=message):
        quantize(guard_file(), data(), CONFIG, threads=1)


class Reader(CalibrationDataReader):
    """What anybody would write to calibrate with."""

    def __init__(self):
        self._batches = iter([{"images": dataset().train.images}])

    def get_next(self):
        return next(self._batches, None)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Our guard, calibrated, then quantised by ONNX Runtime's own quantiser alone."""
    folder = tmp_path_factory.mktemp("foreign")
    guard = calibrate(guard_file(), dataset(), CalibrationConfig(acceptance=0.9, n=150), device="cpu", threads=1).model
    (folder / "guard.onnx").write_bytes(guard)
    with quiet():
        quantize_static(
            folder / "guard.onnx",
            folder / "int8.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm"],
        )
    return guard, onnx.load(folder / "int8.onnx")


def bare(model):
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.metadata_props[:]
    return copy


def test_a_file_quantised_by_others_is_refused_as_it_comes(foreign):
    """Their quantiser leaves our metadata in, and adds an entry of its own."""
    with pytest.raises(ModelError, match=r"expected the one entry cmt\.guard, got 'onnx\.infer', 'cmt\.guard'"):
        Guard(foreign[1].SerializeToString(), device="cpu", threads=1)


def test_our_metadata_alone_does_not_make_it_a_guard(foreign):
    guard, model = foreign
    file = bare(model)
    file.metadata_props.append(onnx.load_model_from_string(guard).metadata_props[0])
    with pytest.raises(ModelError, match=r"expected the digest .* its graph and its metadata do not belong together"):
        Guard(file.SerializeToString(), device="cpu", threads=1)


def test_without_any_metadata_it_is_no_guard(foreign):
    with pytest.raises(ModelError, match=r"metadata: expected the one entry cmt\.guard, got no entry"):
        Guard(bare(foreign[1]).SerializeToString(), device="cpu", threads=1)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_our_metadata_stamped_onto_it_is_stale(foreign, precision):
    """Even somebody who mends the digest, and says int8, carries a threshold of another graph over."""
    guard, model = foreign
    document = read_artifact(guard).spec.to_document()
    document["precision"] = precision
    del document["digest"]
    file = stamp(bare(model), document)
    with pytest.raises(StaleError, match=r"stale threshold: expected one measured on the (graph|precision int8)"):
        Guard(file, device="cpu", threads=1)


def test_metadata_key_is_the_one_that_is_copied(foreign):
    assert [entry.key for entry in onnx.load_model_from_string(foreign[0]).metadata_props] == [METADATA_KEY]
