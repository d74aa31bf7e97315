import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from cmt_export.networks import Logits, build_network
from cmt_export.objective import Recipe, fgs_step, multi_task_loss, training_loss
from runtime.errors import UsageError
from tests.cmt_export import residual

LABELS = np.array([0, 2, 1, 1])
CLASSMAP = np.array([1, 2, 0])


def _random_logits(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 2, (4, 3)) for name in ("logits", "robust_logits")}


def _logits(values: dict[str, np.ndarray]) -> Logits:
    return Logits(**{name: torch.from_numpy(value).float() for name, value in values.items()})


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


@pytest.mark.parametrize("form", ["bounded", "literal"])
def test_the_objective_is_equations_8_and_9(form):
    clean, attacked, partners = _random_logits(1), _random_logits(2), CLASSMAP[LABELS]
    recipe = Recipe(alpha=0.5, beta=0.2, gamma=0.3, robust_loss=form, literal_clamp=2.0)
    away = _cross_entropy(attacked["robust_logits"], partners)
    away_losses = {"literal": -np.minimum(away, 2.0), "bounded": -np.log(1 - np.exp(-away))}
    expected = (
        0.5 * _cross_entropy(clean["logits"], LABELS).mean()
        + 0.2 * _cross_entropy(attacked["logits"], LABELS).mean()
        + 0.3 * 0.5 * (_cross_entropy(clean["robust_logits"], partners).mean() + away_losses[form].mean())
    )
    got = multi_task_loss(
        recipe, _logits(clean), _logits(attacked), torch.from_numpy(LABELS), torch.from_numpy(CLASSMAP)
    )
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_the_bounded_form_stays_finite_where_the_literal_one_runs_away():
    robust = torch.tensor([[200.0, -200.0, 0.0]])
    outputs = Logits(logits=robust, robust_logits=robust)
    labels, classmap = torch.tensor([2]), torch.tensor([1, 2, 0])
    for form in ("bounded", "literal"):
        loss = multi_task_loss(Recipe(robust_loss=form), outputs, outputs, labels, classmap)
        assert torch.isfinite(loss)


def test_fgs_steps_by_epsilon_and_stays_in_range():
    pixels = torch.tensor([0.05, 0.5, 0.95, 0.5])
    got = fgs_step(pixels, torch.tensor([-1.0, 3.0, 2.0, 0.0]), 0.1)
    torch.testing.assert_close(got, torch.tensor([0.0, 0.6, 1.0, 0.5]))


@pytest.mark.parametrize("differentiated", ["logits", "unlocked_logits"])
def test_the_training_loss_is_the_objective_on_fgs_examples(differentiated):
    torch.manual_seed(0)
    network = build_network(residual.make_trunk, input_shape=(1, 8, 8), classes=3, dual=True, lock="trained").eval()
    recipe = Recipe(differentiated=differentiated)
    pixels, labels, classmap = torch.rand(4, 1, 8, 8), torch.from_numpy(LABELS), torch.from_numpy(CLASSMAP)

    got = training_loss(network, recipe, pixels, labels, classmap=classmap, epsilon=0.1)

    probe = pixels.clone().requires_grad_()
    attacked = getattr(network(probe), differentiated)
    torch.nn.functional.cross_entropy(attacked, labels).backward()
    adversarial = (pixels + 0.1 * probe.grad.sign()).clamp(0, 1)
    expected = multi_task_loss(recipe, network(pixels), network(adversarial), labels, classmap)
    torch.testing.assert_close(got, expected)


def test_the_recipe_none_is_cross_entropy():
    network = build_network(residual.make_trunk, input_shape=(1, 8, 8), classes=3, dual=False).eval()
    pixels, labels = torch.rand(4, 1, 8, 8), torch.from_numpy(LABELS)
    got = training_loss(network, Recipe(name="none"), pixels, labels, classmap=None, epsilon=0.1)
    torch.testing.assert_close(got, torch.nn.functional.cross_entropy(network(pixels).logits, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.5}, r"add up to 1, got 0\.5, 0\.4, 0\.2"),
        ({"alpha": -0.1, "beta": 0.9}, "add up to 1"),
        ({"epsilon": 0.0}, r"epsilon in \(0, 1\], got 0\.0"),
        ({"epsilon": float("nan")}, r"epsilon in \(0, 1\], got nan"),
        ({"lock": "open"}, "lock to be one of trained, frozen, none, got 'open'"),
        ({"lock_width": 0}, "lock_width >= 1"),
        ({"name": "magic"}, "name to be one of cmt, none, got 'magic'"),
    ],
    ids=["sum", "negative", "zero", "nan", "lock", "width", "name"],
)
def test_wrong_recipes(options, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**options)
