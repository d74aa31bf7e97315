from dataclasses import replace

import numpy as np
import pytest

from calibration.attacks import Pgd
from calibration.attacks.apgd import Apgd
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.square import Square
from calibration.comparing import compare
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.evaluation.victims import open_victim
from calibration.pools import evaluate_pool, open_pool
from runtime.errors import UsageError
from runtime.guard import Guard
from tests.calibration.guards import dataset, guard_file

RUN = {"device": "cpu", "threads": 1}
N = 24
PGD = Pgd(epsilon=0.15, steps=6, restarts=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    for name, model in {
        "pair": guard_file(),
        "doubtful": guard_file(doubt=3.0),
        "single": guard_file(pair=False, sharpness=2.0),
        "substitute": guard_file(pair=False, sharpness=3.0),
    }.items():
        (folder / f"{name}.onnx").write_bytes(model)
    return {path.stem: path for path in folder.iterdir()}


def run(files, *attacks, names=("doubtful", "single"), config=None, **options):
    settings = {"attacks": attacks or (PGD,), "threats": ("nearly-white-box",), "n": N, **RUN, **(config or {})}
    return evaluate_pool(EvaluationConfig(**settings), [files[name] for name in names], dataset(), **options)


def test_every_member_judges_the_same_images(files):
    """What is counted is recomputed with `Guard` on the 8-bit images that the attack, done by hand, ends in."""
    config = {"eight_bit": True}
    found = run(files, names=("pair", "single"), config=config)
    opened = [open_victim(files[name], dataset(), adoption=None) for name in ("pair", "single")]
    test = dataset().test
    rows = test.sample(N)
    first, second = (one.cells[0] for one in found.members)
    assert (first.threat, first.reading, first.adaptive) == ("nearly-white-box", "pool", True)
    assert first.source == second.source
    assert first.source.file == f"{files['pair']} + {files['single']}"
    assert first.source.digest == open_pool(opened).sha256
    assert first.source.tensor == "member0/logits+member0/robust_logits+member1/logits"
    np.testing.assert_array_equal(first.changes.norm("l2"), second.changes.norm("l2"))
    fooled = []
    for name, one in zip(("pair", "single"), found.members, strict=True):
        assert one.model.sha256 == open_victim(files[name], dataset(), adoption=None).sha256
        with Guard(files[name], **RUN) as guard:
            benign = guard.classify(test.images[rows])
        np.testing.assert_array_equal(one.benign.verdicts.label_array, benign.labels)
        outcomes = one.cells[0].verdicts.outcomes(one.data.truth)
        assert outcomes.fooled.sum() == one.cells[0].counts.fooled
        fooled.append(outcomes.fooled | one.benign.verdicts.outcomes(one.data.truth).fooled)
    at = compare([("pool", found)]).defences[0].within("linf", PGD.epsilon)
    tried = np.stack([one.cells[0].verdicts.outcomes(one.data.truth).fooled for one in found.members])
    still = np.stack([one.benign.verdicts.outcomes(one.data.truth).fooled for one in found.members])
    expected = np.maximum(tried.mean(axis=0), still.mean(axis=0)).mean()
    assert at.fooled.value == pytest.approx(expected)
    assert at.by_worst.value == max(one.mean() for one in fooled)
    assert found.complete


def test_knowing_all_members_fools_more_of_them_than_knowing_one(files):
    attack = replace(PGD, epsilon=0.2, steps=20)
    pool = compare([("pool", run(files, attack))]).defences[0].within("linf", 0.2)
    alone = EvaluationConfig(attacks=(attack,), threats=("black-box",), substitutes=(files["single"],), n=N, **RUN)
    transferred = evaluate(alone, files["doubtful"], dataset()).cells[0]
    assert pool.by_every.value > transferred.rates.fooled.value


@pytest.mark.parametrize(
    "attack",
    [Apgd(epsilon=0.2, steps=6, restarts=1, all_targets=True), CarliniWagner(rounds=1, steps=8)],
    ids=["apgd", "cw"],
)
def test_attacks_that_follow_gradients_work_as_they_are(files, attack):
    found = run(files, attack, names=("pair", "doubtful"))
    together = np.all([one.cells[0].verdicts.outcomes(one.data.truth).fooled for one in found.members], axis=0)
    assert together.mean() > 0.3


def test_members_are_attacked_alone_too_and_no_less_than_by_themselves(files):
    """The mean can end between the members; whoever knows them all does as well as whoever attacks one."""
    found = run(files, names=("pair", "single"))
    assert [cell.reading for cell in found.members[0].cells] == ["pool", "member", "member"]
    alone = found.members[0].cells[1:]
    assert [cell.parameters["objective"]["only"] for cell in alone] == [0, 1]
    assert [cell.source.tensor for cell in alone] == ["member0/logits+member0/robust_logits", "member1/logits"]
    for number, name in enumerate(("pair", "single")):
        config = EvaluationConfig(attacks=(PGD,), threats=("nearly-white-box",), n=N, **RUN)
        single = evaluate(config, files[name], dataset()).cells[0]
        assert found.members[number].cells[1 + number].counts.fooled >= single.counts.fooled
    row = compare([("pool.json", found)]).defences[0].at[0]
    best = max(cell.rates.fooled.value / 2 for one in found.members for cell in one.cells)
    assert row.fooled.value >= best


def test_an_attacker_who_asks_meets_a_fresh_member_each_time(files):
    attack = Square(epsilon=0.3, queries=12)
    threat = {"threats": ("decision-only",)}
    first, again = (run(files, attack, config=threat) for _ in range(2))
    for one, other in zip(first.members, again.members, strict=True):
        assert one.cells[0].verdicts == other.cells[0].verdicts
    assert run(files, attack, config={**threat, "seed": 1}).members[0].data.sample != first.members[0].data.sample
    assert first.members[0].cells[0].queries_per_image <= 12


def test_ignorant_attackers_see_the_mean_too(files):
    config = {"threats": ("grey-box", "black-box"), "substitutes": (files["substitute"],)}
    found = run(files, names=("pair", "single"), config=config)
    kinds = [(cell.threat, cell.reading, cell.source.tensor) for cell in found.members[0].cells]
    assert sorted(kinds) == [
        ("black-box", "substitute", "logits"),
        ("grey-box", "z-star", "member0/logits+member1/logits"),
    ]


def test_resumed_is_the_same(files):
    seen = []
    attacks = (PGD, replace(PGD, epsilon=0.05))
    whole = run(files, *attacks, on_cell=seen.append)
    assert [len(one.members[0].cells) for one in seen] == [1, 2, 3, 4, 5, 6]
    assert not seen[0].complete
    asked = []

    def progress(what):
        asked.append(what)
        return lambda done, total: None

    resumed = run(files, *attacks, earlier=seen[0], progress=progress)
    assert sum("pgd" in what for what in asked) == 5
    for one, other in zip(resumed.members, whole.members, strict=True):
        assert [cell.verdicts for cell in one.cells] == [cell.verdicts for cell in other.cells]
        assert one.worst_cases == other.worst_cases


def test_gradient_of_a_pool_is_checked(files):
    found = run(files)
    check = found.members[0].self_check[0]
    assert check.relative_error < 0.1
    assert " + " in check.file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"config": {"threats": ("pre-lock",)}},
            "expected a guard with the rule pair and a gradient lock, got the rule pool",
        ),
        ({"config": {"sanity": True}}, "--pool: expected guard files without --sanity"),
        ({"names": ("pair",)}, "--pool: expected guards that differ"),
    ],
    ids=["lock", "sanity", "one"],
)
def test_refuses_what_a_pool_cannot_do(files, options, message):
    with pytest.raises(UsageError, match=message):
        run(files, **options)


def test_refuses_to_resume_another_pool(files):
    three = run(files, names=("pair", "doubtful", "single"))
    with pytest.raises(UsageError, match="--resume: expected a pool of 2, got one of 3"):
        run(files, earlier=three)
