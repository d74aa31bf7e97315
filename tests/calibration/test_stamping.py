import hashlib
import json

import numpy as np
import onnx
import pytest

from calibration.stamping import METADATA_KEY, set_threshold, stamp
from runtime.artifact import read_artifact
from runtime.errors import ModelError, StaleError, UsageError
from runtime.guard import Guard
from tests.calibration.guards import assembled, dataset, document, edited, guard_file

RECORD = {
    "data": "a" * 64,
    "images": 120,
    "acceptance": 0.9,
    "per_class": False,
    "reached": 0.95,
    "interval": (0.9, 0.98),
}


def wire_fields_without_metadata(model):
    """The bytes that the format digests, as the protobuf library writes them."""
    return edited(model, lambda proto: proto.ClearField("metadata_props"))


def stored(model):
    [entry] = onnx.load_model_from_string(model).metadata_props
    assert entry.key == METADATA_KEY
    return entry.value


def test_digest_is_sha256_of_the_fields_and_the_canonical_document():
    model = guard_file()
    text = stored(model)
    content = json.loads(text)
    digest = content.pop("digest")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(wire_fields_without_metadata(model) + canonical).hexdigest() == digest
    assert json.dumps(content | {"digest": digest}, sort_keys=True, separators=(",", ":")) == text


def test_stamped_file_starts_and_the_model_is_left_alone():
    model = assembled()
    before = model.SerializeToString()
    with Guard(stamp(model, document(model)), device="cpu") as guard:
        assert guard.classify(dataset().test.images[:8]).labels.tolist() == [0, 1, 2, 3] * 2
    assert model.SerializeToString() == before


def test_stamping_is_byte_stable_and_replaces_other_metadata():
    model = assembled()
    first = stamp(model, document(model))
    model.metadata_props.add(key="author", value="someone")
    assert stamp(model, document(model)) == first
    loaded = onnx.load_model_from_string(first)
    assert stamp(loaded, document(model)) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "expected schema 1, got 2"),
        ({"classmap": [0, 1, 3, 2]}, "classmap"),
        ({"surprise": 1}, "unknown"),
        ({"threshold": 0.5}, "a record of how threshold 0.5 was measured"),
        ({"recipe": {"alpha": float("nan")}}, "JSON"),
    ],
    ids=["schema", "classmap", "unknown key", "threshold without record", "nan"],
)
def test_documents_that_no_guard_would_load_are_not_written(change, message):
    model = assembled()
    with pytest.raises(ModelError, match=message):
        stamp(model, document(model) | change)


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "confidence"])
@pytest.mark.parametrize("threshold", [0.25, 1 / 3, 1.0], ids=str)
def test_threshold_is_set_in_graph_document_and_digest(pair, threshold):
    before = read_artifact(guard_file(pair=pair))
    model = set_threshold(before.model, threshold, **RECORD)
    after = read_artifact(model)
    assert after.spec.threshold == float(np.float32(threshold))
    assert after.spec.calibration._asdict() == {**RECORD, "precision": "fp32", "graph": before.graph}
    assert after.graph == before.graph
    assert after.spec.digest != before.spec.digest
    [initializer] = [t for t in onnx.load_model_from_string(model).graph.initializer if t.name == "threshold"]
    assert initializer.raw_data == np.float32(threshold).tobytes()


def test_threshold_decides():
    model = guard_file()
    images = dataset().test.images
    with Guard(model, device="cpu") as guard:
        open_verdicts = guard.classify(images)
    threshold = float(np.quantile(open_verdicts.confidence, 0.1))  # below that of the golden image
    with Guard(set_threshold(model, threshold, **RECORD), device="cpu") as guard:
        verdicts = guard.classify(images)
    np.testing.assert_array_equal(verdicts.accepted, open_verdicts.accepted & (open_verdicts.confidence >= threshold))
    assert 0 < verdicts.accepted.sum() < open_verdicts.accepted.sum()


def test_setting_a_threshold_twice_leaves_nothing_of_the_first():
    model = guard_file()
    twice = set_threshold(set_threshold(model, 0.7, **RECORD), 0.2, **RECORD)
    assert twice == set_threshold(model, 0.2, **RECORD)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")], ids=str)
def test_threshold_out_of_range(threshold):
    with pytest.raises(UsageError, match=r"threshold: expected a number in \[0, 1\], got"):
        set_threshold(guard_file(), threshold, **RECORD)


def test_threshold_copied_onto_other_weights_is_stale():
    donor = set_threshold(guard_file(), 0.5, **RECORD)
    calibration = json.loads(stored(donor))["calibration"]
    other = assembled(sharpness=5.0, threshold=0.5)
    forged = stamp(other, document(other) | {"threshold": 0.5, "calibration": calibration})
    with pytest.raises(StaleError, match=r"stale threshold: .*cmt calibrate"):
        read_artifact(forged)


def change_weight(proto):
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name == "w")
    weights.raw_data = bytes(8) + weights.raw_data[8:]


def change_threshold(proto):
    next(t for t in proto.graph.initializer if t.name == "threshold").raw_data = np.float32(0.5).tobytes()


def change_document(proto):
    proto.metadata_props[0].value = proto.metadata_props[0].value.replace('"cat"', '"cow"')


@pytest.mark.parametrize("change", [change_weight, change_threshold, change_document])
def test_any_change_after_stamping_is_noticed(change):
    with pytest.raises(ModelError, match="expected the digest"):
        read_artifact(edited(guard_file(), change))


def test_a_stale_threshold_is_mended_by_a_new_measurement():
    donor = set_threshold(guard_file(), 0.5, **RECORD)
    calibration = json.loads(stored(donor))["calibration"]
    other = assembled(sharpness=5.0, threshold=0.5)
    forged = stamp(other, document(other) | {"threshold": 0.5, "calibration": calibration})
    assert read_artifact(set_threshold(forged, 0.4, **RECORD)).spec.threshold == pytest.approx(0.4)
