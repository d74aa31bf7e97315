import numpy as np
import pytest

from calibration.attacks.deployed import Deployed, round_to_levels
from calibration.attacks.square import Square
from calibration.attacks.square_proposals import L2Squares, LinfSquares
from calibration.attacks.verdict_scores import wrong_confidence
from calibration.pixels import to_pixels
from runtime import Guard
from runtime.errors import UsageError
from tests.calibration.guards import CLASSMAP, K, dataset, guard_file, templates

SPLIT = dataset(n_test=40).test
PIXELS, LABELS = to_pixels(SPLIT.images), SPLIT.labels
EPSILON = 0.25


@pytest.fixture(scope="module")
def guard():
    return Guard(guard_file(), device="cpu", threads=1)


@pytest.fixture(scope="module")
def single():
    """A single head, linear, that rejects nothing."""
    return Guard(guard_file(pair=False), device="cpu", threads=1)


class Recorded(Deployed):
    """Keeps how many images each call was about."""

    def __init__(self, guard):
        super().__init__(guard)
        self.sizes = []

    def verdicts(self, x):
        self.sizes.append(len(x))
        return super().verdicts(x)


def one_by_hand(guard, attack, row):
    """Algorithm 1 for one image: the paper's loop, its schedule and the score of a verdict, without any batch."""
    rng, x, label = np.random.default_rng([attack.seed, row]), PIXELS[row : row + 1], LABELS[row]
    squares = (LinfSquares if attack.norm == "linf" else L2Squares)(attack.epsilon)
    coins = rng.random(x.shape[1:], dtype=np.float32) < 0.5
    drawn = rng.random((256, squares.numbers(x.shape[1:])), dtype=np.float32)
    best, best_score = None, -np.inf
    for number in range(attack.queries):
        p = attack.p_init
        for halving in (10, 50, 200, 1000, 2000, 4000, 6000, 8000):
            p /= 2 if number > halving / 10_000 * attack.queries else 1
        if number:
            tried = squares.step(best, x, p, drawn[None, number - 1])
        else:
            tried = x if attack.start == "image" else squares.start(x, coins[None])
        verdicts = Deployed(guard).verdicts(tried)
        verdict = verdicts[0]
        if verdict.accepted and verdict.label != label:
            return tried[0], number + 1
        score = verdict.confidence if verdict.label != label else -verdict.confidence
        if attack.score == "logits":
            score = wrong_confidence(verdicts, np.array([label]), CLASSMAP)[0]
        if score >= best_score:
            best, best_score = tried, score
    return best[0], attack.queries


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": EPSILON},
        {"epsilon": EPSILON, "start": "random"},
        {"epsilon": EPSILON, "score": "logits", "p_init": 0.3},
        {"epsilon": 1.5, "norm": "l2"},
        {"epsilon": 1.5, "norm": "l2", "start": "random"},
    ],
    ids=["confidence", "stripes", "logits", "l2", "l2 tiles"],
)
def test_it_is_the_papers_loop_for_each_image_alone(guard, options):
    attack = Square(queries=40, seed=3, **options)
    victim = Recorded(guard)
    found = attack(victim, PIXELS[:12], LABELS[:12], batch_size=5)
    for row in range(12):
        x, queries = one_by_hand(guard, attack, row)
        np.testing.assert_array_equal(found.x_adv[row], x)
        assert found.queries[row] == queries
    assert sum(victim.sizes) == found.queries.sum() == victim.queries
    assert len(set(found.queries.tolist())) > 1, "some fall early"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_result_depends_on_the_seed_and_not_on_the_batch(guard, norm):
    epsilon = {"linf": 0.2, "l2": 1.0}[norm]
    runs = [
        Square(epsilon=epsilon, norm=norm, queries=60, seed=seed)(Deployed(guard), PIXELS, LABELS, batch_size=size)
        for seed, size in [(0, 7), (0, 100), (1, 100)]
    ]
    np.testing.assert_array_equal(runs[0].x_adv, runs[1].x_adv)
    np.testing.assert_array_equal(runs[0].queries, runs[1].queries)
    assert (runs[0].x_adv != runs[2].x_adv).any()


def reachable(levels):
    """Whether a linear head can be led to a wrong label by changes of at most `levels`: exact, for every image."""
    weights = templates()
    logits = PIXELS.reshape(len(PIXELS), -1) @ weights.T - (weights**2).sum(axis=1) / 2
    found = np.zeros(len(PIXELS), np.bool_)
    for row, (image, label) in enumerate(zip(PIXELS.reshape(len(PIXELS), -1), LABELS, strict=True)):
        low, high = np.maximum(-image, -levels / 255), np.minimum(1 - image, levels / 255)
        for t in set(range(K)) - {label}:
            slope = weights[t] - weights[label]
            found[row] |= logits[row, label] - logits[row, t] < (slope * np.where(slope > 0, high, low)).sum()
    return found


@pytest.mark.parametrize("score", ["confidence", "logits"])
def test_on_a_linear_head_it_fools_what_can_be_fooled_and_nothing_else(single, score):
    levels, victim = 40, Deployed(single)
    found = Square(epsilon=levels / 255, queries=400, score=score)(victim, PIXELS, LABELS)
    fooled = victim.fooled(found.x_adv, LABELS)
    assert not fooled[~reachable(levels)].any()
    assert fooled[reachable(0.85 * levels)].all()
    assert 5 < fooled.sum() < 35


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 7.7 / 255, 0.99])
def test_budget_holds_after_rounding(guard, epsilon, norm):
    before = PIXELS.copy()
    x_adv = Square(epsilon=epsilon, norm=norm, queries=30)(Deployed(guard), PIXELS, LABELS).x_adv
    change = (x_adv.astype(np.float64) - PIXELS).reshape(len(PIXELS), -1)
    assert np.linalg.norm(change, ord=np.inf if norm == "linf" else 2, axis=1).max() <= epsilon + 1e-6
    np.testing.assert_array_equal(x_adv, round_to_levels(x_adv))
    np.testing.assert_array_equal(PIXELS, before)


def test_what_the_guard_gets_wrong_anyway_takes_one_query_and_no_change(guard):
    verdicts = guard.classify(SPLIT.images)
    wrong = np.where(verdicts.accepted, (verdicts.labels + 1) % K, verdicts.labels).astype(np.int64)
    found = Square(epsilon=0.0, queries=3)(Deployed(guard), PIXELS, wrong)
    np.testing.assert_array_equal(found.queries, np.where(verdicts.accepted, 1, 3))
    np.testing.assert_array_equal(found.x_adv, PIXELS)


def test_random_numbers_go_on_after_the_first_block(guard):
    """Images that go on beyond 256 steps do so whoever was done before."""
    attack, rows = Square(epsilon=0.15, queries=300), slice(0, 8)
    together = attack(Deployed(guard), PIXELS[rows], LABELS[rows])
    apart = attack(Deployed(guard), PIXELS[rows], LABELS[rows], batch_size=3)
    assert together.queries.min() < 256 < together.queries.max()
    np.testing.assert_array_equal(together.x_adv, apart.x_adv)
    np.testing.assert_array_equal(together.queries, apart.queries)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, r"expected epsilon in \[0, 1\], got -0.1"),
        ({"epsilon": 0.1, "norm": "l1"}, "expected norm as linf or l2, got 'l1'"),
        ({"epsilon": 0.1, "queries": 0}, "expected queries as a whole number of at least 1, got 0"),
        ({"epsilon": 0.1, "seed": 0.5}, "expected seed as a whole number of at least 0, got 0.5"),
        ({"epsilon": 0.1, "p_init": 0.0}, r"expected p_init in \(0, 1\], got 0.0"),
        ({"epsilon": 0.1, "score": "margin"}, "expected score as confidence or logits, got 'margin'"),
        ({"epsilon": 0.1, "start": "noise"}, "expected start as image or random, got 'noise'"),
    ],
    ids=["epsilon", "norm", "queries", "seed", "p_init", "score", "start"],
)
def test_hyper_parameters_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Square(**options)


def test_images_between_grey_levels_are_refused(guard):
    with pytest.raises(UsageError, match="between grey levels in 40 of 40 images"):
        Square(epsilon=0.1)(Deployed(guard), np.clip(PIXELS + np.float32(1e-3), 0, 1), LABELS)
