import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from cmt_export.networks import Logits
from cmt_export.recipes import Cmt
from runtime.errors import UsageError
from tests.cmt_export.recipes.batches import CLASSMAP, LABELS, make_batch, make_network


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
    recipe = Cmt(alpha=0.5, beta=0.2, gamma=0.3, robust_loss=form, literal_clamp=2.0)
    away = _cross_entropy(attacked["robust_logits"], partners)
    away_losses = {"literal": -np.minimum(away, 2.0), "bounded": -np.log(1 - np.exp(-away))}
    expected = (
        0.5 * _cross_entropy(clean["logits"], LABELS).mean()
        + 0.2 * _cross_entropy(attacked["logits"], LABELS).mean()
        + 0.3 * 0.5 * (_cross_entropy(clean["robust_logits"], partners).mean() + away_losses[form].mean())
    )
    got = recipe.multi_task_loss(
        _logits(clean), _logits(attacked), torch.from_numpy(LABELS), torch.from_numpy(partners)
    )
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_both_forms_stay_finite_where_the_paper_s_runs_away():
    robust = torch.tensor([[200.0, -200.0, 0.0]])
    outputs = Logits(logits=robust, robust_logits=robust)
    labels, partners = torch.tensor([2]), torch.tensor([0])
    for form in ("bounded", "literal"):
        assert torch.isfinite(Cmt(robust_loss=form).multi_task_loss(outputs, outputs, labels, partners))


@pytest.mark.parametrize("differentiated", ["logits", "unlocked_logits"])
@pytest.mark.parametrize(("sampling", "epsilon"), [("uniform", 0.05), ("fixed", 0.1)])
def test_the_loss_is_the_objective_on_fgs_examples(differentiated, sampling, epsilon):
    recipe = Cmt(differentiated=differentiated, epsilon=0.1, epsilon_sampling=sampling)
    network, batch = make_network(recipe), make_batch(draw=0.5)

    got = recipe.loss(network, batch)

    probe = batch.pixels.clone().requires_grad_()
    attacked = getattr(network(probe), differentiated)
    torch.nn.functional.cross_entropy(attacked, batch.labels).backward()
    adversarial = (batch.pixels + epsilon * probe.grad.sign()).clamp(0, 1)
    expected = recipe.multi_task_loss(network(batch.pixels), network(adversarial), batch.labels, batch.partners)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.5}, r"add up to 1, got 0\.5, 0\.4, 0\.2"),
        ({"alpha": -0.1, "beta": 0.9}, "add up to 1"),
        ({"epsilon": 0.0}, r"epsilon in \(0, 1\], got 0\.0"),
        ({"epsilon": float("nan")}, r"epsilon in \(0, 1\], got nan"),
        ({"lock": "open"}, "lock to be one of trained, frozen, additive, gated, none, got 'open'"),
        ({"lock_width": 0}, "lock_width >= 1"),
        ({"literal_clamp": 0.0}, "literal_clamp > 0"),
    ],
    ids=["sum", "negative", "zero", "nan", "lock", "width", "clamp"],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=f"recipe cmt: expected .*{message}"):
        Cmt(**options)


def test_the_classmap_is_estimated_with_the_steps_of_the_training():
    assert Cmt(epsilon=0.2, epsilon_sampling="fixed").classmap_steps == (0.2, "fixed")
