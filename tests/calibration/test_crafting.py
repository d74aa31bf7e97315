import numpy as np
import pytest

from calibration.attacks import AttackResult, FgsConfig, IgsConfig, PgdConfig, fgs, igs, pgd
from calibration.attacks.attack import BATCH_SIZE
from calibration.crafting import ATTACKS, check_budget, craft, name_of
from calibration.gradients import GradientGraph
from calibration.pixels import to_pixels
from runtime.errors import CmtError
from tests.calibration.guards import dataset, guard_file


@pytest.fixture(scope="module")
def graph():
    return GradientGraph(guard_file(), of=["logits"], device="cpu", threads=1)


@pytest.fixture(scope="module")
def images():
    test = dataset().test
    return to_pixels(test.images[: BATCH_SIZE + 9]), test.labels[: BATCH_SIZE + 9]


def never(x_adv, rows):
    return np.zeros(len(rows), dtype=np.bool_)


@pytest.mark.parametrize(
    ("config", "run"),
    [(FgsConfig(epsilon=0.1), fgs), (IgsConfig(epsilon=0.2, steps=3), igs)],
    ids=["fgs", "igs"],
)
def test_blocks_make_what_the_attack_makes_at_once(graph, images, config, run):
    told = []
    found = craft(config, graph, *images, succeeded=never, report=lambda *pair: told.append(pair))
    expected = run(graph, *images, **vars(config))
    np.testing.assert_array_equal(found.x_adv, expected.x_adv)
    np.testing.assert_array_equal(found.gradients, expected.gradients)
    np.testing.assert_array_equal(found.no_gradient, expected.no_gradient)
    assert told == [(BATCH_SIZE, BATCH_SIZE + 9), (BATCH_SIZE + 9, BATCH_SIZE + 9)]


def test_each_block_draws_its_own_random_start(graph, images):
    config = IgsConfig(epsilon=0.2, steps=1, step_size=1e-6, random_start=True, seed=5)
    pixels = np.full_like(images[0], 0.5)
    starts = craft(config, graph, pixels, images[1], succeeded=never).x_adv
    assert not np.allclose(starts[:9], starts[BATCH_SIZE:], atol=1e-3)
    np.testing.assert_array_equal(craft(config, graph, pixels, images[1], succeeded=never).x_adv, starts)
    tail = igs(graph, pixels[BATCH_SIZE:], images[1][BATCH_SIZE:], **vars(config) | {"seed": 6})
    np.testing.assert_array_equal(starts[BATCH_SIZE:], tail.x_adv)


def test_restarts_skip_the_images_that_succeeded_in_every_block(graph, images):
    done = np.arange(len(images[1])) % 2 == 0
    config = PgdConfig(epsilon=0.2, steps=1, restarts=2, seed=5)
    found = craft(config, graph, *images, succeeded=lambda x_adv, rows: done[rows])
    np.testing.assert_array_equal(found.gradients, np.where(done, 2, 4))
    once = pgd(graph, *images, **vars(config) | {"restarts": 1}).x_adv
    np.testing.assert_array_equal(found.x_adv[done], once[done])


def test_attack_that_leaves_its_budget_is_found_out(graph, images, monkeypatch):
    def greedy(graph, pixels, labels, *, epsilon, objective, batch_size):
        result = fgs(graph, pixels, labels, epsilon=2 * epsilon, batch_size=batch_size)
        return AttackResult(**vars(result) | {"config": None})

    monkeypatch.setitem(ATTACKS, "fgs", (FgsConfig, greedy))
    with pytest.raises(CmtError, match=r"attack: expected changes of at most 0\.1, got 0\.[12]"):
        craft(FgsConfig(epsilon=0.1), graph, *images, succeeded=never)


@pytest.mark.parametrize(
    ("x_adv", "message"),
    [
        ([[0.5, 1.0001]], r"expected pixels in \[0, 1\], got 0\.5 to 1\.0001"),
        ([[-0.001, 0.5]], r"expected pixels in \[0, 1\], got -0\.001"),
        ([[np.nan, 0.5]], r"expected pixels in \[0, 1\], got nan"),
        ([[0.5, 0.601]], r"expected changes of at most 0\.1, got 0\.10"),
        ([[0.5], [0.5]], r"expected as many pixels as before, \(1, 2\), got \(2, 1\)"),
    ],
    ids=["above", "below", "nan", "too far", "shape"],
)
def test_budget(x_adv, message):
    with pytest.raises(CmtError, match=message):
        check_budget(np.full((1, 2), 0.5, np.float32), np.array(x_adv, np.float32), epsilon=0.1)


def test_float32_rounding_is_within_the_budget():
    pixels = np.random.default_rng(0).random((1000, 3), dtype=np.float32) * np.float32(0.6)
    check_budget(pixels, pixels + np.float32(0.3), epsilon=0.3)
    check_budget(pixels, np.ones_like(pixels), epsilon=None)


def test_names():
    configs = [FgsConfig(epsilon=0.1), IgsConfig(epsilon=0.1), PgdConfig(epsilon=0.1)]
    assert [name_of(config) for config in configs] == ["fgs", "igs", "pgd"]
