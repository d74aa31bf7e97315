import logging
import tempfile

import numpy as np
import onnx
import pytest

from calibration.pixels import to_pixels
from calibration.quantization.nodes import cut_network
from calibration.quantization.ranges import METHODS, measure_ranges, quiet
from runtime.errors import ModelError, UsageError
from runtime.session import create_session
from tests.calibration.conv_guards import dataset, guard_file


@pytest.fixture(scope="module")
def network():
    return cut_network(onnx.load_model_from_string(guard_file()))


IMAGES = dataset().train.images


def every_tensor(network, images):
    """What each float tensor really is, by ONNX Runtime without optimisation."""
    model = onnx.shape_inference.infer_shapes(network)
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(value for value in model.graph.value_info if value.name not in known)
    session = create_session(model.SerializeToString(), device="cpu", threads=1)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"pixels": to_pixels(images)}), strict=True))


def test_minmax_is_what_numpy_finds(network):
    ranges = measure_ranges(network, IMAGES, "minmax", threads=1)
    values = every_tensor(network, IMAGES)
    assert {"c", "features", "logits", "robust_logits"} <= set(values)
    for name, value in values.items():
        low, high = (float(np.ravel(bound)[0]) for bound in ranges[name].range_value)
        assert (low, high) == pytest.approx((min(value.min(), 0), max(value.max(), 0)), rel=1e-5, abs=1e-6) or (
            low,
            high,
        ) == pytest.approx((value.min(), value.max()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_within_what_was_seen(network, method):
    ranges = measure_ranges(network, IMAGES, method, threads=1)
    logits = every_tensor(network, IMAGES)["logits"]
    low, high = (float(np.ravel(bound)[0]) for bound in ranges["logits"].range_value)
    slack = 0.02 * (logits.max() - logits.min())
    assert logits.min() - slack <= low < high <= logits.max() + slack


def test_one_batch_at_a_time_sees_all_images(network):
    """Of more images than fit into a batch, the last one has the largest logit."""
    quiet_images = np.concatenate([np.zeros((70, 8, 8, 1), np.uint8), IMAGES[:1]])
    alone = measure_ranges(network, IMAGES[:1], "minmax", threads=1)["c"].range_value
    together = measure_ranges(network, quiet_images, "minmax", threads=1)["c"].range_value
    assert float(np.ravel(together[1])[0]) >= float(np.ravel(alone[1])[0]) * (1 - 1e-6)


def test_the_larger_the_images_the_fewer_at_once():
    """Memory follows the batch: 18 images of 96 by 96 in colour, not 64."""
    network = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        network (float[N,3,96,96] pixels) => (float[N,3] logits) {
          pooled = GlobalAveragePool (pixels)
          logits = Flatten (pooled) }"""
    )
    told = []
    images = np.zeros((40, 96, 96, 3), np.uint8)
    measure_ranges(network, images, "entropy", threads=1, report=lambda *pair: told.append(pair))
    assert told == [(18, 40), (36, 40), (40, 40)]


@pytest.mark.parametrize("method", METHODS)
def test_leaves_no_file_prints_nothing_and_reports(network, method, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    told = []
    measure_ranges(network, IMAGES, method, threads=1, report=lambda *pair: told.append(pair))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert told[-1] == (len(IMAGES), len(IMAGES))
    assert told == sorted(told)


def test_logging_is_let_through_afterwards():
    with quiet():
        assert not logging.getLogger().isEnabledFor(logging.ERROR)
    assert logging.getLogger().isEnabledFor(logging.ERROR)


def test_what_the_quantiser_raises_becomes_one_line():
    with (
        pytest.raises(ModelError, match="that ONNX Runtime can quantise, got: no such luck"),
        quiet(),
    ):
        raise ValueError("no such\nluck")


def test_our_own_errors_pass():
    with pytest.raises(UsageError, match="as it is"), quiet():
        raise UsageError("as it is")
