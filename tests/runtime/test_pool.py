import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime import Guard
from runtime.errors import ModelError, UsageError
from runtime.pool import GuardPool
from tests.runtime.guard_files import Recipe, build, random_images

RECIPES = [Recipe(seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def models() -> list[bytes]:
    """Three members of other weights."""
    return [build(recipe) for recipe in RECIPES]


@pytest.fixture
def images() -> np.ndarray:
    return random_images(RECIPES[0], 5)


def _who_answers(pool: GuardPool, images: np.ndarray, calls: int) -> list[int]:
    """Return the member behind each call, found by its logits."""
    alone = [guard.classify(images).logits.tobytes() for guard in pool.members]
    return [alone.index(pool.classify(images).logits.tobytes()) for _ in range(calls)]


def _pool(models, **options) -> GuardPool:
    return GuardPool(models, device="cpu", threads=1, **options)


def test_one_member_answers_a_whole_call_and_all_of_them_take_turns(models, images):
    with _pool(models) as pool:
        drawn = Counter(_who_answers(pool, images, 300))
    assert set(drawn) == {0, 1, 2}
    assert min(drawn.values()) > 60


def test_a_seed_repeats_the_draws_and_none_does_not(models, images):
    def draws(seed):
        with _pool(models, seed=seed) as pool:
            return _who_answers(pool, images, 60)

    assert draws(0) == draws(0)
    assert draws(0) != draws(1)
    assert draws(None) != draws(None)


def test_without_a_seed_members_are_drawn_evenly(models, images):
    with _pool(models, seed=None) as pool:
        drawn = Counter(_who_answers(pool, images, 300))
    assert min(drawn[member] for member in range(3)) > 50


def test_members_may_be_guards_paths_or_bytes(models, tmp_path, images):
    path = tmp_path / "guard.onnx"
    path.write_bytes(models[1])
    with Guard(models[0], device="cpu", threads=1) as guard, _pool([guard, path, models[2]]) as pool:
        assert pool.members[0] is guard
        assert len(pool) == 3
        assert len({member.digest for member in pool.members}) == 3
        assert len(pool.classify(images)) == 5
        assert repr(pool).startswith("<GuardPool of 3: <Guard model bytes: pair")


def test_many_threads_share_a_pool(models, images):
    with _pool(models) as pool, ThreadPoolExecutor(8) as threads:
        known = {guard.classify(images).logits.tobytes() for guard in pool.members}
        verdicts = list(threads.map(lambda _: pool.classify(images), range(200)))
    assert {each.logits.tobytes() for each in verdicts} == known


def test_a_closed_pool_answers_no_more(models, images):
    with _pool(models) as pool:
        pass
    with pytest.raises(UsageError, match="expected an open guard, got a closed one"):
        pool.classify(images)
    for guard in pool.members:
        with pytest.raises(UsageError, match="expected an open guard"):
            guard.classify(images)
    pool.close()


@pytest.mark.parametrize("seed", [3, None])
def test_a_pickled_pool_starts_its_draws_anew(models, images, seed):
    with _pool(models, seed=seed) as pool:
        first = _who_answers(pool, images, 30)
        with pickle.loads(pickle.dumps(pool)) as copy:
            again = _who_answers(copy, images, 30)
            assert [guard.digest for guard in copy.members] == [guard.digest for guard in pool.members]
    assert (first == again) == (seed is not None)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_members(models, n):
    with pytest.raises(UsageError, match=f"pool: expected two or more guards, got {n}"):
        _pool(models[:n])


@pytest.mark.parametrize(
    ("other", "what"),
    [(Recipe(classes=("cat", "dog", "eel", "gnu")), "classes"), (Recipe(height=5), "input")],
    ids=["classes", "input"],
)
def test_members_that_do_not_fit_together(models, other, what):
    with pytest.raises(UsageError, match=f"pool: expected the {what} of <Guard model bytes.*train the members on"):
        _pool([models[0], build(other)])


def test_a_bad_member_closes_those_that_were_opened_and_no_other(models, images):
    with Guard(models[0], device="cpu", threads=1) as guard:
        with pytest.raises(ModelError, match="absent"):
            _pool([guard, models[1], "absent.onnx"])
        assert len(guard.classify(images)) == 5


@pytest.mark.parametrize("guards", [None, "guard.onnx", b"bytes", Path("guard.onnx"), 3], ids=repr)
def test_what_is_no_list_of_guards_is_refused(guards):
    with pytest.raises(UsageError, match=r"guards: expected two or more guards or files, got .*; put them in a list"):
        GuardPool(guards)


def test_a_guard_that_comes_twice_is_refused_and_left_open(models, images):
    with Guard(models[0], device="cpu", threads=1) as guard:
        with pytest.raises(UsageError, match=r"pool: expected guards that differ, got <Guard model .*; leave one out"):
            _pool([guard, guard])
        with pytest.raises(UsageError, match="expected guards that differ"):
            _pool([guard, models[1], models[0]])
        assert len(guard.classify(images)) == 5


@pytest.mark.parametrize("seed", ["1", [1], 1.5, object()], ids=lambda seed: type(seed).__name__)
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(UsageError, match="seed: expected a whole number or None, got"):
        GuardPool([], seed=seed)
