import numpy as np
import pytest

from calibration.attacks.deployed import Deployed, Gallery, round_to_levels
from calibration.attacks.hopskipjump import HopSkipJump
from calibration.pixels import to_pixels
from runtime import Guard
from runtime.errors import UsageError
from tests.calibration.guards import K, dataset, guard_file, templates

SPLIT = dataset(n_test=16).test
PIXELS, LABELS = to_pixels(SPLIT.images), SPLIT.labels
OWN = dataset().train
GALLERY = Gallery(images=OWN.images, labels=OWN.labels)


@pytest.fixture(scope="module")
def guard():
    return Guard(guard_file(), device="cpu", threads=1)


@pytest.fixture(scope="module")
def single():
    """A single head, linear, that rejects nothing."""
    return Guard(guard_file(pair=False), device="cpu", threads=1)


def lengths(x, norm):
    change = (x.astype(np.float64) - PIXELS[: len(x)]).reshape(len(x), -1)
    return np.linalg.norm(change, ord=np.inf if norm == "linf" else 2, axis=1)


def nearest_boundary(norm):
    """Exact distance to a wrong label of the linear head inside [0, 1], per image.

    For each wrong label the least change has the form clip(λ·slope) (L2) or clip(λ·sign(slope)) (L-infinity); λ by
    bisection.
    """
    weights = templates().astype(float)
    found = np.full(len(PIXELS), np.inf)
    for row, (image, label) in enumerate(zip(PIXELS.reshape(len(PIXELS), -1).astype(float), LABELS, strict=True)):
        logits = weights @ image - (weights**2).sum(axis=1) / 2
        for t in set(range(K)) - {label}:
            slope = weights[t] - weights[label]
            way = slope if norm == "l2" else np.sign(slope)
            low, high = 0.0, 100.0
            for _ in range(60):
                middle = (low + high) / 2
                change = np.clip(image + middle * way, 0, 1) - image
                low, high = (low, middle) if slope @ change >= logits[label] - logits[t] else (middle, high)
            change = np.clip(image + high * way, 0, 1) - image
            if slope @ change >= logits[label] - logits[t] - 1e-6:
                found[row] = min(found[row], np.linalg.norm(change, ord=2 if norm == "l2" else np.inf))
    return found


@pytest.mark.parametrize(("norm", "slack"), [("l2", 1.05), ("linf", 1.25)], ids=["l2", "linf"])
def test_it_comes_close_to_the_nearest_boundary_of_a_linear_head_and_never_closer(single, norm, slack):
    victim = Deployed(single, gallery=GALLERY)
    found = HopSkipJump(norm=norm, queries=1500)(victim, PIXELS, LABELS)
    assert victim.fooled(found.x_adv, LABELS).all()
    exact, reached = nearest_boundary(norm), lengths(found.x_adv, norm)
    attacked = single.classify(SPLIT.images).labels == LABELS
    assert attacked.sum() > 10
    assert (reached[attacked] >= exact[attacked] - 1e-5).all()
    assert np.median(reached[attacked] / exact[attacked]) < slack


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_more_queries_bring_it_nearer(guard, norm):
    reached = []
    for queries in (20, 200, 1000):
        victim = Deployed(guard, gallery=GALLERY)
        found = HopSkipJump(norm=norm, queries=queries)(victim, PIXELS, LABELS)
        assert victim.fooled(found.x_adv, LABELS).all()
        reached.append(lengths(found.x_adv, norm))
    assert (np.diff(reached, axis=0) <= 1e-6).all()
    assert reached[2].mean() < 0.8 * reached[0].mean()


@pytest.mark.parametrize("epsilon", [None, 0.3], ids=["free", "budget"])
@pytest.mark.parametrize("queries", [1, 2, 3, 9, 14, 50, 131, 300])
def test_queries_are_counted_and_never_exceed_the_limit(guard, queries, epsilon):
    victim = Deployed(guard, gallery=GALLERY)
    found = HopSkipJump(queries=queries, epsilon=epsilon)(victim, PIXELS, LABELS, batch_size=5)
    assert victim.queries == found.queries.sum()
    assert found.queries.max() <= queries


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_with_a_budget_images_are_fooled_within_it_or_returned_as_they_were(single, norm):
    epsilon = float(np.median(nearest_boundary(norm))) * 1.1
    victim = Deployed(single, gallery=GALLERY)
    found = HopSkipJump(norm=norm, queries=600, epsilon=epsilon)(victim, PIXELS, LABELS)
    fooled = victim.fooled(found.x_adv, LABELS)
    assert 3 < fooled.sum() < len(PIXELS)
    np.testing.assert_array_equal(found.x_adv[~fooled], PIXELS[~fooled])
    assert (lengths(found.x_adv, norm) <= epsilon + 1e-6).all()
    assert (found.queries[~fooled] == 600).all()
    assert found.queries[fooled].mean() < 400, "what is done goes no further"


class Recorded(Deployed):
    """Keeps every image it was asked about."""

    def __init__(self, guard, **options):
        super().__init__(guard, **options)
        self.asked = []

    def verdicts(self, x):
        self.asked.append(x.copy())
        return super().verdicts(x)


def test_start_is_the_nearest_image_of_another_class_that_is_accepted(guard):
    x, label = PIXELS[:1], LABELS[:1]
    victim = Recorded(guard, gallery=GALLERY)
    HopSkipJump(queries=30)(victim, x, label)
    others = victim.gallery[OWN.labels != label]
    order = np.argsort(((others - x) ** 2).sum(axis=(1, 2, 3)))
    tries = int(np.argmax(Deployed(guard).fooled(others[order], np.repeat(label, len(order))))) + 1
    np.testing.assert_array_equal(np.concatenate(victim.asked)[: 1 + tries], np.concatenate([x, others[order[:tries]]]))
    between = victim.asked[1 + tries]
    middle = (x + others[order[tries - 1]]) / 2
    np.testing.assert_allclose(between, middle, atol=0.51 / 255)


def test_without_a_gallery_noise_of_several_grains_is_tried(guard):
    class Stubborn(Recorded):
        def fooled(self, x, labels):
            return super().fooled(x, labels) & False

    victim = Stubborn(guard)
    found = HopSkipJump(starts=6)(victim, PIXELS[:2], LABELS[:2])
    np.testing.assert_array_equal(found.x_adv, PIXELS[:2])
    assert found.queries.tolist() == [7, 7]
    asked = np.stack(victim.asked, axis=1)
    np.testing.assert_array_equal(asked[:, 0], PIXELS[:2])
    values = [len(np.unique(asked[0, number])) for number in range(1, 7)]
    assert values[0] > 20
    assert values[3] > 20, "uniform noise again, after blocks of 2 and of 4 a side"
    assert max(values[1], values[2], values[4], values[5]) <= 2
    assert (asked[:, 2, :, :3, :2] == asked[:, 2, :, :1, :1]).all(), "a quarter of 6 x 5 has one colour"
    assert (asked[0, 1:] != asked[1, 1:]).any(axis=(1, 2, 3)).all()


def test_noise_serves_as_a_start(single):
    victim = Deployed(single)
    found = HopSkipJump(queries=300)(victim, PIXELS, LABELS)
    assert victim.fooled(found.x_adv, LABELS).all()


def test_only_accepted_and_wrong_is_read_of_a_verdict(guard):
    """Wrong confidences and logits change nothing."""

    class Lying(Deployed):
        def verdicts(self, x):
            honest = super().verdicts(x)
            honest.confidence[:] = np.nan
            honest.logits[:] = np.nan
            return honest

    attack = HopSkipJump(queries=150)
    honest, lied = (kind(guard, gallery=GALLERY) for kind in (Deployed, Lying))
    np.testing.assert_array_equal(attack(honest, PIXELS, LABELS).x_adv, attack(lied, PIXELS, LABELS).x_adv)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_result_depends_on_the_seed_and_not_on_the_batch(guard, norm):
    runs = [
        HopSkipJump(norm=norm, queries=200, seed=seed)(
            Deployed(guard, gallery=GALLERY), PIXELS, LABELS, batch_size=size
        )
        for seed, size in [(0, 1), (0, 6), (0, 100), (1, 100)]
    ]
    for other in runs[1:3]:
        np.testing.assert_array_equal(runs[0].x_adv, other.x_adv)
        np.testing.assert_array_equal(runs[0].queries, other.queries)
    assert (runs[0].x_adv != runs[3].x_adv).any()


def test_images_stay_in_range_on_grey_levels_and_the_input_is_left_alone(guard):
    before = PIXELS.copy()
    x_adv = HopSkipJump(queries=100)(Deployed(guard, gallery=GALLERY), PIXELS, LABELS).x_adv
    np.testing.assert_array_equal(x_adv, round_to_levels(x_adv))
    np.testing.assert_array_equal(PIXELS, before)
    assert x_adv.dtype == np.float32


def test_what_the_guard_gets_wrong_anyway_takes_one_query_and_no_change(guard):
    verdicts = guard.classify(SPLIT.images)
    wrong = ((verdicts.labels + 1) % K).astype(np.int64)
    found = HopSkipJump(queries=60)(Deployed(guard, gallery=GALLERY), PIXELS, wrong)
    assert (found.queries[verdicts.accepted] == 1).all()
    np.testing.assert_array_equal(found.x_adv[verdicts.accepted], PIXELS[verdicts.accepted])


@pytest.mark.parametrize("noise_is_rejected", [True, False])
def test_probes_leave_black_and_white_alone_once_they_are_all_rejected(guard, noise_is_rejected):
    """White stripes on black, blended with a start whose right half is grey."""
    image = np.zeros((1, 6, 5, 1), np.uint8)
    image[:, ::2] = 255
    own = image.copy()
    own[:, :, 2:] = 128
    x, label = to_pixels(image), np.array([0])

    class Opinionated(Recorded):
        def fooled(self, tried, labels):
            super().fooled(tried, labels)
            far = np.abs(tried - x).max(axis=(1, 2, 3)) > 0.2
            clean = (tried[..., :2] == x[..., :2]).all(axis=(1, 2, 3))
            return far & (clean | (not noise_is_rejected))

    victim = Opinionated(guard, gallery=Gallery(images=own, labels=label + 1))
    HopSkipJump(queries=150, probes=30)(victim, x, label)
    first, second = (next(asked for asked in victim.asked if len(asked) == count) for count in (20, 30))
    black_and_white = np.s_[:, :, :, :2]
    assert (first.std(axis=0)[0] > 0).all()
    assert (second.std(axis=0)[0, :, 2:] > 0).sum() > 10
    assert (second[black_and_white] == x[black_and_white]).all() == noise_is_rejected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 0}, "expected queries as a whole number of at least 1, got 0"),
        ({"probes": 0}, "expected probes as a whole number of at least 1, got 0"),
        ({"starts": True}, "expected starts as a whole number of at least 1, got True"),
        ({"seed": -1}, "expected seed as a whole number of at least 0, got -1"),
        ({"norm": "l0"}, "expected norm as linf or l2, got 'l0'"),
        ({"norm": "linf", "epsilon": 2.0}, r"expected epsilon in \[0, 1\], got 2.0"),
        ({"probe_levels": 0.0}, "expected probe_levels above 0 and below 128, got 0.0"),
        ({"probe_levels": float("nan")}, "expected probe_levels above 0 and below 128, got nan"),
    ],
    ids=["queries", "probes", "starts", "seed", "norm", "epsilon", "probe_levels", "NaN"],
)
def test_hyper_parameters_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        HopSkipJump(**options)


def test_images_between_grey_levels_are_refused(guard):
    with pytest.raises(UsageError, match="between grey levels in 16 of 16 images"):
        HopSkipJump()(Deployed(guard), np.clip(PIXELS + np.float32(1e-3), 0, 1), LABELS)
