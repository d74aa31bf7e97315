from dataclasses import asdict, fields

import numpy as np
import onnx.parser
import pytest
import torch
from onnx import numpy_helper

from calibration.attacks import Fgs, Igs, Pgd
from calibration.gradients import GradientGraph
from calibration.objectives import CrossEntropy
from calibration.pixels import to_pixels
from runtime.errors import ModelError, UsageError
from tests.calibration.small_files import CLASSES, HEIGHT, WIDTH, small_file
from tests.calibration.torch_networks import exported, table_1

EPSILON = 0.1


@pytest.fixture(scope="module")
def graph():
    return GradientGraph(small_file(), threads=1)


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (13, HEIGHT, WIDTH, 1), dtype=np.uint8)
    return to_pixels(images), rng.integers(0, CLASSES, 13)


def losses(graph, x, labels, objective=None):
    return graph.value_and_gradient(objective or CrossEntropy(), x, labels=labels).loss


ATTACKS = {
    "fgs": (Fgs, {}),
    "igs": (Igs, {"steps": 4}),
    "igs random start": (Igs, {"steps": 4, "random_start": True, "seed": 3}),
    "igs small steps": (Igs, {"steps": 3, "step_size": 0.01}),
    "pgd": (Pgd, {"steps": 3, "restarts": 2, "seed": 1}),
}
EVERY = pytest.mark.parametrize(("attack", "options"), ATTACKS.values(), ids=ATTACKS.keys())


@EVERY
@pytest.mark.parametrize("epsilon", [0.0, 0.03, EPSILON, 1.0])
def test_examples_stay_in_the_ball_and_in_the_cube(graph, sample, attack, options, epsilon):
    x, labels = sample
    result = attack(epsilon=epsilon, **options)(graph, x, labels)
    assert result.x_adv.shape == x.shape
    assert result.x_adv.dtype == np.float32
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    assert np.abs(result.x_adv.astype(np.float64) - x).max() <= epsilon + 1e-7


@EVERY
def test_the_loss_rises(graph, sample, attack, options):
    x, labels = sample
    result = attack(epsilon=EPSILON, **options)(graph, x, labels)
    assert losses(graph, result.x_adv, labels).mean() > losses(graph, x, labels).mean()


@EVERY
def test_a_targeted_objective_approaches_its_targets(graph, sample, attack, options):
    x, labels = sample
    targets = (labels + 1) % CLASSES
    objective = CrossEntropy(targeted=True)
    result = attack(epsilon=EPSILON, objective=objective, **options)(graph, x, labels, targets=targets)
    assert losses(graph, result.x_adv, targets).mean() < losses(graph, x, targets).mean()
    assert result.attack.objective == objective


@EVERY
@pytest.mark.parametrize("batch_size", [1, 4, 13, 100])
def test_same_seed_same_bits_whatever_the_batch_size(graph, sample, attack, options, batch_size):
    x, labels = sample
    expected = attack(epsilon=EPSILON, **options)(graph, x, labels).x_adv
    result = attack(epsilon=EPSILON, **options)(graph, x, labels, batch_size=batch_size)
    np.testing.assert_array_equal(result.x_adv, expected)


@EVERY
def test_the_images_are_left_alone(graph, sample, attack, options):
    x, labels = sample
    before = x.copy()
    attack(epsilon=EPSILON, **options)(graph, x, labels)
    np.testing.assert_array_equal(x, before)


@EVERY
def test_no_images_give_no_examples(graph, sample, attack, options):
    x, labels = sample
    result = attack(epsilon=EPSILON, **options)(graph, x[:0], labels[:0])
    assert (len(result.x_adv), len(result.gradients), len(result.no_gradient)) == (0, 0, 0)


@EVERY
def test_the_result_records_every_hyper_parameter(graph, sample, attack, options):
    x, labels = sample
    result = attack(epsilon=EPSILON, **options)(graph, x, labels)
    recorded = asdict(result.attack)
    assert recorded["epsilon"] == EPSILON
    assert recorded["objective"] == {"of": "logits", "targeted": False}
    assert {name: recorded[name] for name in options} == options
    again = attack(**{field.name: getattr(result.attack, field.name) for field in fields(result.attack)})(
        graph, x, labels
    )
    np.testing.assert_array_equal(again.x_adv, result.x_adv)


def test_random_starts_differ_by_seed_and_by_image(graph, sample):
    x, labels = sample
    starts = [
        Igs(epsilon=EPSILON, step_size=1e-6, steps=1, random_start=True, seed=seed)(graph, x, labels).x_adv - x
        for seed in (0, 1)
    ]
    assert not np.allclose(starts[0], starts[1], atol=0.01)
    assert not np.allclose(starts[0][0], starts[0][1], atol=0.01)


def test_fgs_is_one_step_of_igs(graph, sample):
    x, labels = sample
    one = Igs(epsilon=EPSILON, step_size=EPSILON, steps=1)(graph, x, labels)
    np.testing.assert_array_equal(Fgs(epsilon=EPSILON)(graph, x, labels).x_adv, one.x_adv)


def test_cost_is_counted(graph, sample):
    x, labels = sample
    assert Fgs(epsilon=EPSILON)(graph, x, labels).gradients.tolist() == [1] * len(x)
    assert Igs(epsilon=EPSILON, steps=7)(graph, x, labels).gradients.tolist() == [7] * len(x)


def test_default_step_size_spans_the_ball():
    assert Igs(epsilon=0.2, steps=10).step_size == pytest.approx(0.05)
    assert Igs(epsilon=0.2, step_size=0.01).step_size == 0.01


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_filled_in_config_can_be_given_again(epsilon):
    config = Igs(epsilon=epsilon, steps=1)
    assert Igs(**vars(config)) == config


def test_fgs_and_igs_equal_torch():
    torch.manual_seed(0)
    shape = (1, 12, 12)
    module = table_1(widths=(8, 8))
    module(torch.rand(2, *shape))
    module.eval()
    graph = GradientGraph(exported(module, shape, 18), threads=1)
    x, labels = np.random.default_rng(0).random((6, *shape), dtype=np.float32), np.arange(6)

    def sign(pixels):
        pixels = pixels.detach().requires_grad_()
        torch.nn.functional.cross_entropy(module(pixels), torch.tensor(labels), reduction="sum").backward()
        return pixels.grad.sign()

    start = torch.tensor(x)
    expected = (start + EPSILON * sign(start)).clamp(0, 1).numpy()
    assert_same_steps(Fgs(epsilon=EPSILON)(graph, x, labels).x_adv, expected, step=EPSILON)
    current = start
    for _ in range(3):
        moved = current + 0.05 * sign(current)
        current = torch.max(torch.min(moved, start + EPSILON), start - EPSILON).clamp(0, 1)
    result = Igs(epsilon=EPSILON, step_size=0.05, steps=3)(graph, x, labels)
    assert_same_steps(result.x_adv, current.numpy(), step=0.05)


def assert_same_steps(actual, expected, *, step):
    """Equal but for pixels whose gradient is zero to rounding, where a sign may differ."""
    differs = np.abs(actual - expected) > 1e-6
    assert differs.mean() < 0.01
    assert np.abs(actual - expected).max() <= 6 * step + 1e-6


def masked():
    """The single-head file with a rounding between pixels and network: its gradient is zero everywhere."""
    model = small_file(pair=False)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    steps = onnx.parser.parse_graph("g (float[N] pixels) => (float[N] rounded) { rounded = Mul (pixels, nothing) }")
    conv.input[0] = "rounded"
    model.graph.node.insert(3, steps.node[0])
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    return model


@EVERY
def test_a_gradient_of_zero_is_reported(sample, attack, options):
    x, labels = sample
    result = attack(epsilon=EPSILON, **options)(GradientGraph(masked(), threads=1), x, labels)
    assert result.no_gradient.all()


@EVERY
def test_a_working_gradient_is_not_reported(graph, sample, attack, options):
    x, labels = sample
    assert not attack(epsilon=EPSILON, **options)(graph, x, labels).no_gradient.any()


@EVERY
def test_a_gradient_that_is_not_finite_stops_the_attack(sample, attack, options):
    model = small_file(pair=False)
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    head.CopyFrom(numpy_helper.from_array(np.full(tuple(head.dims), np.nan, np.float32), "head"))
    x, labels = sample
    with pytest.raises(ModelError, match="expected finite gradients, got NaN or infinity for 13 of 13 images"):
        attack(epsilon=EPSILON, **options)(GradientGraph(model, threads=1), x, labels)


BAD_CONFIGS = {
    "epsilon below 0": (Fgs, {"epsilon": -0.1}, r"expected epsilon in \[0, 1\], got -0.1"),
    "epsilon of grey levels": (Fgs, {"epsilon": 8}, r"expected epsilon in \[0, 1\], got 8; .* 8/255"),
    "epsilon NaN": (Igs, {"epsilon": float("nan")}, r"expected epsilon in \[0, 1\], got nan"),
    "no steps": (Igs, {"epsilon": 0.1, "steps": 0}, "expected steps as a whole number of at least 1, got 0"),
    "half a step": (
        Igs,
        {"epsilon": 0.1, "steps": 1.5},
        "expected steps as a whole number of at least 1, got 1.5",
    ),
    "steps backwards": (Igs, {"epsilon": 0.1, "step_size": -0.01}, r"expected step_size in \[0, 1\], got -0.01"),
    "no starts": (
        Pgd,
        {"epsilon": 0.1, "restarts": 0},
        "expected restarts as a whole number of at least 1, got 0",
    ),
    "seed below 0": (Pgd, {"epsilon": 0.1, "seed": -1}, "expected seed as a whole number of at least 0, got -1"),
    "pgd backwards": (Pgd, {"epsilon": 0.1, "step_size": -1}, r"expected step_size in \[0, 1\], got -1"),
    "step of grey levels": (Igs, {"epsilon": 0.1, "step_size": 2}, r"expected step_size in \[0, 1\], got 2"),
}


@pytest.mark.parametrize(("config", "options", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_refuses_bad_hyper_parameters(config, options, message):
    with pytest.raises(UsageError, match=message):
        config(**options)


X, Y = np.full((2, 1, HEIGHT, WIDTH), 0.5, np.float32), np.array([0, 1])

BAD_INPUTS = {
    "labels out of range": (
        {"labels": Y + 2},
        r"expected labels in \[0, 3\), got 2 to 3; they are class numbers from 0",
    ),
    "labels of another length": ({"labels": Y[:1]}, r"expected labels as integers \(2,\), got int64 \(1,\)"),
    "labels as floats": ({"labels": Y / 1}, r"expected labels as integers \(2,\), got float64 \(2,\)"),
    "pixels above 1": ({"pixels": X + 1}, r"expected pixels in \[0, 1\], got 1.5 to 1.5; divide 8-bit images by 255"),
    "pixels below 0": ({"pixels": X - 1}, r"expected pixels in \[0, 1\], got -0.5"),
    "pixels NaN": ({"pixels": X * np.float32(np.nan)}, r"expected pixels in \[0, 1\], got nan"),
    "pixels as bytes": ({"pixels": X.astype(np.uint8)}, r"expected pixels as float32 \(N, 1, 6, 5\), got uint8"),
    "pixels of another size": (
        {"pixels": X[..., :4]},
        r"expected pixels as float32 \(N, 1, 6, 5\), got float32 \(2, 1, 6, 4\)",
    ),
    "no targets": (
        {"objective": CrossEntropy(targeted=True)},
        ": expected targets, got none; pass them",
    ),
    "targets out of range": ({"targets": Y - 1}, r"expected targets in \[0, 3\), got -1 to 0"),
    "unknown logits": (
        {"objective": CrossEntropy(of="z")},
        ": expected logits among logits, robust_logits, got z; name it in",
    ),
    "no batch": ({"batch_size": 0}, "expected batch_size as a whole number of at least 1, got 0"),
}


@pytest.mark.parametrize("attack", [Fgs, Igs, Pgd], ids=["fgs", "igs", "pgd"])
@pytest.mark.parametrize(("change", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_refuses_bad_input(graph, attack, change, message):
    options = {name: change[name] for name in ("objective",) if name in change}
    arguments = {"pixels": X, "labels": Y} | {name: value for name, value in change.items() if name not in options}
    with pytest.raises(UsageError, match=message):
        attack(epsilon=EPSILON, **options)(graph, **arguments)
