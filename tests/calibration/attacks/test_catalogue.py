import pytest

from calibration.attacks import Fgs, Igs
from calibration.attacks.catalogue import ATTACKS, EPSILONS, grid, measured_in
from runtime.errors import UsageError


def test_each_attack_gets_every_combination_of_the_options_it_has():
    assert grid(["fgs", "igs"], {"epsilon": (0.1, 0.2, 0.1), "steps": (3,), "norm": ()}) == (
        *(Fgs(epsilon=0.1), Fgs(epsilon=0.2)),
        *(Igs(epsilon=0.1, steps=3), Igs(epsilon=0.2, steps=3)),
    )


def test_budgets_where_none_are_named():
    assert [attack.epsilon for attack in grid(["pgd"], {})] == list(EPSILONS)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_only_fgs_is_held_to_one_norm(norm):
    assert set(ATTACKS) - set(measured_in(norm, list(ATTACKS))) == ({"fgs"} if norm == "l2" else set())


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["fgs", "cw"], {"steps": (3,), "queries": (9,)}, "--queries: expected an attack that has it, got fgs, cw;"),
        (["cw", "jsma"], {"norm": ("l2",)}, "--norm: expected an attack that has it, got cw, jsma; leave it out"),
        (["pgd", "fgs"], {"norm": ("l2",)}, "-a fgs: expected attacks whose ε --norm l2 can measure, got linf; leave"),
    ],
    ids=["of no attack", "norm of no attack", "norm of some"],
)
def test_refuses_what_would_be_ignored(names, options, message):
    with pytest.raises(UsageError, match=message):
        grid(names, options)


def test_a_norm_is_nothing_to_attacks_without_a_budget():
    assert [attack.name for attack in grid(["pgd", "cw", "jsma"], {"norm": ("l2",), "epsilon": (1.5,)})] == [
        *("pgd", "cw", "jsma")
    ]
