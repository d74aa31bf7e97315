import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from cmt_export.recipes.autoencoder import Autoencoder, jensen_shannon_divergence, reconstruction_error
from tests.cmt_export.conftest import make_bars


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "plain"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (1, 9, 9)], ids=str)
def test_it_returns_pixels_of_the_same_shape(shape, pooled):
    reconstructed = Autoencoder(shape, pooled=pooled)(torch.rand(2, *shape))
    assert reconstructed.shape == (2, *shape)
    assert 0 <= reconstructed.min() <= reconstructed.max() <= 1


@pytest.mark.parametrize(("pooled", "convolutions"), [(True, 5), (False, 3)])
def test_its_layers_are_those_of_the_paper(pooled, convolutions):
    """3 filters a layer, 3x3: Meng and Chen 2017, table 3."""
    weights = [weight for weight in Autoencoder((1, 28, 28), pooled=pooled).parameters() if weight.ndim == 4]
    shapes = [tuple(weight.shape) for weight in weights]
    assert shapes == [(3, 1, 3, 3), *[(3, 3, 3, 3)] * (convolutions - 2), (1, 3, 3, 3)]


@pytest.mark.parametrize(("pooled", "share"), [(True, 0.85), (False, 0.15)], ids=["pooled", "plain"])
def test_it_begins_to_learn_at_once(pooled, share):
    """With weights that sigmoids shrink away it would answer the mean image for hundreds of steps."""
    torch.manual_seed(0)
    autoencoder = Autoencoder((1, 8, 8), pooled=pooled)
    images, _ = make_bars(256, 0)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2) / 255).float()
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = ((autoencoder(pixels) - pixels) ** 2).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < share * pixels.var(0).mean().item()


@pytest.mark.parametrize("power", [1, 2])
def test_the_reconstruction_error(power):
    generator = np.random.default_rng(0)
    x, y = generator.random((3, 2, 4, 5)), generator.random((3, 2, 4, 5))
    expected = [(np.abs(a - b) ** power).mean() for a, b in zip(x, y, strict=True)]
    got = reconstruction_error(torch.from_numpy(x), torch.from_numpy(y), power=power)
    np.testing.assert_allclose(got, expected)


@pytest.mark.parametrize("temperature", [1.0, 10.0, 40.0])
def test_the_divergence_is_that_of_jensen_and_shannon(temperature):
    generator = np.random.default_rng(1)
    z, others = 10 * generator.normal(size=(6, 5)), 10 * generator.normal(size=(6, 5))
    expected = jensenshannon(softmax(z / temperature, axis=1), softmax(others / temperature, axis=1), axis=1) ** 2
    got = jensen_shannon_divergence(torch.from_numpy(z), torch.from_numpy(others), temperature=temperature)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_divergence_is_finite_where_softmax_underflows():
    z = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    divergence = jensen_shannon_divergence(z, -z.detach(), temperature=1.0)
    assert divergence.item() == pytest.approx(np.log(2))
    (gradient,) = torch.autograd.grad(divergence.sum(), z)
    assert torch.isfinite(gradient).all()
