import pytest
import torch
from torch import nn

from cmt_export.networks import Logits
from cmt_export.recipes.l2 import ascend, project, random_start
from tests.cmt_export.recipes.batches import make_batch


class _Linear(nn.Module):
    """Logits that are a linear function of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, pixels: torch.Tensor) -> Logits:
        return Logits(logits=self.linear(pixels.flatten(1)))


class _Plateau(nn.Module):
    """Logits that nothing within 0.2 of an image changes."""

    def __init__(self, middle: torch.Tensor) -> None:
        super().__init__()
        self.middle = middle

    def forward(self, pixels: torch.Tensor) -> Logits:
        beyond = ((pixels - self.middle).flatten(1)[:, 0] - 0.2).relu()
        return Logits(logits=torch.stack([beyond, beyond * 0], 1))


def _first(outputs: Logits) -> torch.Tensor:
    return outputs.logits[:, 0]


def _grey(n: int = 4):
    batch = make_batch(n=n)
    batch.pixels.fill_(0.5)
    return batch


def test_it_reaches_the_point_of_the_ball_that_a_linear_loss_has_its_maximum_in():
    torch.manual_seed(0)
    network, batch = _Linear(), _grey()
    x = ascend(network, random_start(batch, 0.2), batch, _first, epsilon=0.2, steps=30, step_size=0.2)
    weight = network.linear.weight[0].detach()
    expected = batch.pixels + 0.2 * (weight / weight.norm()).reshape(1, 1, 8, 8)
    torch.testing.assert_close(x, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("step_size", [0.01, 5.0], ids=["short", "long"])
def test_it_ends_in_the_ball_and_in_range(step_size, steps):
    torch.manual_seed(0)
    network, batch = _Linear().train(), make_batch(n=32)
    x = ascend(network, random_start(batch, 0.3), batch, _first, epsilon=0.3, steps=steps, step_size=step_size)
    assert (x - batch.pixels).flatten(1).norm(dim=1).max() <= 0.3 + 1e-5
    assert x.min() >= 0
    assert x.max() <= 1
    assert network.training
    assert not x.requires_grad


def test_what_lies_behind_a_plateau_is_found_from_outside():
    batch = _grey()
    network, start = _Plateau(batch.pixels), batch.pixels.clone()
    start[:, 0, 0, 0] += 0.21
    for begin, reached in ((batch.pixels, 0.0), (start, 0.15)):
        x = ascend(network, begin, batch, _first, epsilon=0.15, steps=4, step_size=0.05)
        torch.testing.assert_close((x - batch.pixels).flatten(1)[:, 0], torch.full((4,), reached))


def test_pixels_at_the_edge_of_the_range_do_not_take_the_length_of_a_step():
    torch.manual_seed(0)
    network, batch = _Linear(), make_batch()
    batch.pixels.zero_()
    x = ascend(network, batch.pixels, batch, _first, epsilon=0.2, steps=1, step_size=0.2)
    change = (x - batch.pixels).flatten(1)
    torch.testing.assert_close(change.norm(dim=1), torch.full((4,), 0.2))
    assert (change[:, network.linear.weight[0] <= 0] == 0).all()


def test_no_gradient_moves_nothing():
    batch = make_batch()
    x = ascend(_Linear(), batch.pixels, batch, lambda out: 0 * out.logits[:, 0], epsilon=1.0, steps=3, step_size=0.5)
    torch.testing.assert_close(x, batch.pixels)


def test_random_starts_lie_up_to_three_radii_away_and_follow_the_generator():
    batches = [_grey(500) for _ in range(2)]
    start, same = (random_start(batch, 0.1) for batch in batches)
    assert torch.equal(start, same)
    lengths = (start - 0.5).flatten(1).norm(dim=1)
    assert lengths.max() <= 0.3 + 1e-6
    assert lengths.mean() == pytest.approx(0.15, rel=0.1)


def test_a_point_is_drawn_into_ball_and_range():
    middle = torch.full((2, 1, 1, 2), 0.5)
    x = torch.tensor([[0.9, 0.8], [0.5, 0.6]]).reshape(2, 1, 1, 2)
    expected = torch.tensor([[0.58, 0.56], [0.5, 0.6]]).reshape(2, 1, 1, 2)
    torch.testing.assert_close(project(x, middle, 0.1), expected)
    assert project(torch.tensor([[[[9.0, -9.0]]]]), middle[:1], 2.0).tolist() == [[[[1.0, 0.0]]]]
