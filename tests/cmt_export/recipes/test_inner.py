import pytest
import torch
from torch import nn

from cmt_export.networks import Logits
from cmt_export.recipes import PgdTraining
from cmt_export.recipes.inner import ascend, evaluating, fgs_step, pixel_gradient, project, random_start
from runtime.errors import UsageError
from tests.cmt_export.recipes.batches import make_batch


class _Linear(nn.Module):
    """Logits that are a linear function of the pixels, behind dropout: the best point of the ball is a corner."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(64, 3)

    def forward(self, pixels: torch.Tensor) -> Logits:
        return Logits(logits=self.linear(self.dropout(pixels.flatten(1))))


def _first(outputs: Logits) -> torch.Tensor:
    return outputs.logits[:, 0]


def _ascend(steps: int, step_size: float, epsilon: float = 0.1) -> tuple[torch.Tensor, torch.Tensor, _Linear]:
    torch.manual_seed(0)
    network, batch = _Linear().train(), make_batch()
    start = random_start(batch, epsilon)
    x = ascend(network, start, batch, _first, epsilon=epsilon, steps=steps, step_size=step_size)
    return x, batch.pixels, network


def test_it_reaches_the_corner_of_the_ball_that_a_linear_loss_has_its_maximum_in():
    x, pixels, network = _ascend(steps=5, step_size=0.06)
    corner = pixels + 0.1 * network.linear.weight[0].detach().sign().reshape(1, 1, 8, 8)
    torch.testing.assert_close(x, corner.clamp(0, 1))


@pytest.mark.parametrize("step_size", [0.01, 5.0], ids=["short", "long"])
def test_it_stays_in_the_ball_and_in_range(step_size):
    x, pixels, _ = _ascend(steps=3, step_size=step_size)
    assert (x - pixels).abs().max() <= 0.1 + 1e-6
    assert x.min() >= 0
    assert x.max() <= 1


def test_only_the_pixels_gather_a_gradient_and_the_mode_is_restored():
    x, _, network = _ascend(steps=2, step_size=0.05)
    assert network.training
    assert not x.requires_grad
    assert all(weight.grad is None for weight in network.parameters())


def test_dropout_is_off_while_an_attack_is_made():
    network, batch = _Linear().train(), make_batch()
    state = torch.get_rng_state()
    ascend(network, batch.pixels, batch, _first, epsilon=0.1, steps=2, step_size=0.05)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_after_an_error(training):
    network = _Linear().train(training)
    with pytest.raises(ZeroDivisionError, match="division"), evaluating(network):
        raise ZeroDivisionError("division")
    assert network.training == training


def test_the_pixel_gradient_is_that_of_each_row():
    network = _Linear().eval()
    gradient = pixel_gradient(network, make_batch().pixels, lambda outputs: 2 * outputs.logits[:, 1])
    torch.testing.assert_close(gradient, (2 * network.linear.weight[1]).reshape(1, 1, 8, 8).expand(4, 1, 8, 8))


def test_random_starts_fill_the_ball_and_follow_the_generator():
    batch, same, other = make_batch(seed=1, n=500), make_batch(seed=1, n=500), make_batch(seed=2, n=500)
    start = random_start(batch, 0.05)
    assert torch.equal(start, random_start(same, 0.05))
    assert not torch.equal(start, random_start(other, 0.05))
    inside = (batch.pixels > 0.05) & (batch.pixels < 0.95)
    noise = (start - batch.pixels)[inside]
    assert noise.abs().max() <= 0.05 + 1e-6
    assert noise.mean().abs() < 1e-3
    assert noise.std() == pytest.approx(0.1 / 12**0.5, rel=0.02)


def test_a_point_is_projected_on_ball_and_range():
    x, middle = torch.tensor([0.9, 0.0, 0.45, -1.0]), torch.tensor([0.5, 0.5, 0.5, 0.05])
    torch.testing.assert_close(project(x, middle, 0.1), torch.tensor([0.6, 0.4, 0.45, 0.0]))


def test_fgs_steps_by_epsilon_and_stays_in_range():
    pixels = torch.tensor([0.05, 0.5, 0.95, 0.5])
    got = fgs_step(pixels, torch.tensor([-1.0, 3.0, 2.0, 0.0]), 0.1)
    torch.testing.assert_close(got, torch.tensor([0.0, 0.6, 1.0, 0.5]))


@pytest.mark.parametrize(
    ("ramp", "position", "expected"),
    [(0.0, 0.01, 0.3), (0.5, 0.25, 0.15), (0.5, 0.5, 0.3), (0.5, 1.0, 0.3), (1.0, 0.1, 0.03)],
)
def test_epsilon_grows_over_the_ramp(ramp, position, expected):
    assert PgdTraining(epsilon=0.3, ramp=ramp).epsilon_at(position) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, r"epsilon in \(0, 1\], got 0\.0"),
        ({"epsilon": float("nan")}, r"epsilon in \(0, 1\], got nan"),
        ({"inner_steps": 0}, "inner_steps >= 1, got 0"),
        ({"inner_step_size": 0.0}, r"inner_step_size in \(0, 2\], got 0\.0"),
        ({"ramp": 1.5}, r"ramp in \[0, 1\], got 1\.5"),
    ],
    ids=["zero", "nan", "steps", "step-size", "ramp"],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=f"recipe pgd: expected {message}"):
        PgdTraining(**options)
