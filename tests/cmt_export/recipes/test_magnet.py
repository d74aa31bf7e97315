"""MagNet: its loss, its limits, and the exported file from loading to attacking."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from calibration.attacks import Fgs
from calibration.datasets import Dataset, make_dataset
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.gradients import GradientGraph
from calibration.pixels import to_pixels
from calibration.thresholds import CalibrationConfig, calibrate
from cmt_export.exporting import export
from cmt_export.recipes import Magnet
from cmt_export.training import train
from runtime import Guard
from runtime.errors import UsageError
from tests.cmt_export.conftest import make_bars
from tests.cmt_export.recipes.batches import make_batch, make_network
from tests.cmt_export.recipes.quick import QUICK, TRUNK, begin_quickly


@pytest.fixture(scope="module")
def colours() -> Dataset:
    """The bars as colour images, each channel of another brightness."""

    def split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels = make_bars(n, seed)
        return (images * np.array([1.0, 0.7, 0.4])).astype(np.uint8), labels

    return make_dataset("colours", ["vertical", "horizontal", "diagonal"], split(384, 0), split(300, 1))


@pytest.fixture(scope="module", params=["two", "one"])
def trained(request, colours, tmp_path_factory):
    """A data set, the finished checkpoint, its network and its exported file."""
    grey = make_dataset("grey", colours.classes, make_bars(384, 0), make_bars(300, 1))
    data = {"two": grey, "one": colours}[request.param]
    folder = tmp_path_factory.mktemp("magnet")
    checkpoint = train(begin_quickly(data, QUICK["magnet"], epochs=6), folder / "model.pt")
    exported = export(checkpoint, folder / "guard.onnx", trunk=TRUNK)
    return data, checkpoint, checkpoint.build(TRUNK), exported


def test_the_loss_trains_the_classifier_on_images_and_auto_encoders_on_noise():
    recipe = Magnet(noise=0.2)
    network, batch, same = make_network(recipe), make_batch(seed=1), make_batch(seed=1)
    expected = F.cross_entropy(network.classifier(same.pixels).logits, same.labels)
    for autoencoder in network.autoencoders:
        noise = 0.2 * torch.empty_like(same.pixels).normal_(generator=same.generator)
        expected = expected + ((autoencoder((same.pixels + noise).clamp(0, 1)) - same.pixels) ** 2).mean()
    torch.testing.assert_close(recipe.loss(network, batch), expected)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("kind", ["two", "one"])
def test_each_detector_refuses_the_asked_share_of_held_out_images(kind, share):
    recipe = Magnet(autoencoders=kind, false_positives=share)
    network, pixels = make_network(recipe), torch.rand(200, 1, 8, 8)
    with torch.no_grad():
        network.classifier.head.weight *= 100  # sure enough for divergences above the smallest limit
    recipe.settle(network, iter(pixels.split(64)))
    refused = (network(pixels).anomalies > 1 + 1e-6).sum(0)
    assert refused.tolist() == [int(200 * share)] * (2 if kind == "two" else 3)


def test_no_limit_is_so_small_that_rounding_would_decide():
    recipe = Magnet(autoencoders="one")
    network, pixels = make_network(recipe), torch.rand(50, 1, 8, 8)
    recipe.settle(network, iter([pixels]))
    assert (network.limits >= 1e-4).all()
    assert network(pixels).anomalies[:, 1:].max() < 1


@pytest.mark.parametrize(("channels", "autoencoders"), [(1, 2), (3, 1), (4, 1)])
def test_the_configuration_follows_the_channels(channels, autoencoders):
    from tests.cmt_export import residual

    network = Magnet().build(residual.make_trunk, input_shape=(channels, 8, 8), classes=3)
    assert len(network.autoencoders) == autoencoders


def test_held_out_images_are_never_trained_on(bars):
    run = begin_quickly(bars, replace(QUICK["magnet"], held_out=0.25))
    assert (len(run.rows), len(run.held_out), run.steps) == (288, 96, 3)
    assert not set(run.rows) & set(run.held_out)
    assert sorted(run.shuffle()[0]) == run.rows.tolist()


def test_auto_encoders_learn_at_their_own_rate(bars):
    run = begin_quickly(bars, Magnet(autoencoder_speed=5.0))
    rates = {
        name: group["max_lr"]
        for group in run.optimizer.param_groups
        for name, weight in run.network.named_parameters()
        if any(weight is each for each in group["params"])
    }
    assert len(rates) == len(list(run.network.parameters()))
    for name, rate in rates.items():
        assert rate == pytest.approx(2e-3 * (5 if name.startswith("autoencoders") else 1)), name


def test_classifier_and_auto_encoders_share_no_weight():
    network, batch = make_network(Magnet()), make_batch()
    Magnet().loss(network, batch).backward()
    both = [weight.grad.clone() for weight in network.classifier.parameters()]
    network.zero_grad()
    F.cross_entropy(network.classifier(batch.pixels).logits, batch.labels).backward()
    for together, alone in zip(both, network.classifier.parameters(), strict=True):
        torch.testing.assert_close(together, alone.grad)


def test_the_file_rejects_what_a_detector_refuses(trained):
    data, _, network, exported = trained
    images = np.concatenate([data.test.images, 255 - data.test.images])
    assert exported.parity.different == 0
    with Guard(exported.model, device="cpu") as guard, torch.no_grad():
        verdicts = guard.classify(images)
        assert (guard.spec.rule, guard.spec.classmap, guard.spec.recipe["name"]) == ("detector", None, "magnet")
        outputs = network(torch.from_numpy(to_pixels(images)))
    clear = ((outputs.anomalies - 1).abs() > 1e-3).all(1).numpy()
    expected = (outputs.anomalies <= 1).all(1).numpy()
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(verdicts.accepted[clear], expected[clear])
    n = len(data.test)
    assert verdicts.accepted[:n].mean() > 0.7
    assert not verdicts.accepted[n:].any()
    np.testing.assert_allclose(verdicts.logits, outputs.logits.numpy(), atol=1e-4)


def test_the_readings_lie_in_the_file_under_their_name(trained):
    *_, network, exported = trained
    graph = onnx.load_model_from_string(exported.model).graph
    known = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    assert [axis.dim_param or axis.dim_value for axis in known["anomalies"]] == ["N", len(network.limits)]
    assert "anomalies" not in {value.name for value in graph.output}


def test_the_gradient_goes_through_the_reformer(trained):
    data, _, network, exported = trained
    pixels = to_pixels(data.test.images[:4])
    cotangent = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    probe = torch.from_numpy(pixels).requires_grad_()
    (expected,) = torch.autograd.grad((network(probe).logits * torch.from_numpy(cotangent)).sum(), probe)
    graph = GradientGraph(exported.model, of=["logits"], device="cpu", threads=1)
    np.testing.assert_allclose(graph.vjp(pixels, {"logits": cotangent}), expected.numpy(), rtol=1e-3, atol=1e-5)


def test_it_is_attacked_and_calibrated_like_any_other(trained, tmp_path):
    data, _, _, exported = trained
    path = tmp_path / "guard.onnx"
    path.write_bytes(exported.model)
    config = EvaluationConfig(attacks=(Fgs(epsilon=0.1),), threats=("grey-box",), n=40, device="cpu", threads=1)
    (cell,) = evaluate(config, path, data).cells
    assert (cell.threat, cell.reading, cell.counts.n) == ("grey-box", "z-star", 40)
    calibrated = calibrate(path, data, CalibrationConfig(acceptance=0.6, n=20), device="cpu", threads=1)
    assert 0 < calibrated.threshold < 1
    assert calibrated.reachable < 1
    with Guard(calibrated.model, device="cpu") as guard:
        assert guard.spec.rule == "detector"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -0.1}, r"noise in \[0, 1\], got -0.1"),
        ({"false_positives": 1.0}, r"false_positives in \[0, 1\), got 1.0"),
        ({"held_out": 0.0}, r"held_out in \(0, 1\), got 0.0"),
        ({"autoencoder_speed": 0.0}, "autoencoder_speed > 0, got 0.0"),
        ({"autoencoders": "three"}, "autoencoders to be one of by-channels, two, one, got 'three'"),
    ],
    ids=["noise", "share", "held-out", "speed", "kind"],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=f"recipe magnet: expected {message}"):
        Magnet(**options)
