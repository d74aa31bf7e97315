from dataclasses import replace

import pytest

from calibration.attacks import Fgs
from cmt_export.recipes import Cmt
from cmt_export.reproduction.crafting import Craft, Sample
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.lineup import LineUp
from cmt_export.reproduction.sections import SECTIONS, in_order
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import key_of, options_of, with_needs
from tests.cmt_export.reproduction import tiny

LINEUP = LineUp(preset=tiny.PRESET, config=tiny.CONFIG, images=384)
PART = Craft(source=LINEUP.guard, attack=Fgs(epsilon=0.1), gradients=1, sample=Sample(n=None), first=0, last=9)


def _keys(config=tiny.CONFIG, preset=tiny.PRESET, only=tuple(SECTIONS)):
    sets = Sets(lineup=LineUp(preset=preset, config=config, images=384), images=120)
    return {key_of(unit, "data"): unit for unit in in_order(only, sets)}


def test_a_unit_comes_after_what_it_needs_and_once():
    unit = JudgeSet(judge=LINEUP.oracle, parts=(PART, replace(PART, first=9, last=18)))
    ordered = with_needs((unit, unit))
    assert len(ordered) == len(set(ordered)) == 7  # two networks trained and exported, two parts, one judgement
    assert all(ordered.index(need) < ordered.index(each) for each in ordered for need in each.needs)


@pytest.mark.parametrize(
    "other",
    [
        replace(PART, attack=Fgs(epsilon=0.2)),
        replace(PART, last=10),
        replace(PART, sample=Sample(n=None, seed=1)),
        replace(PART, goal="pair"),
        replace(PART, source=LINEUP.oracle),
        replace(PART, source=replace(PART.source, train=replace(PART.source.train, recipe=Cmt(epsilon=0.19)))),
    ],
    ids=["attack", "part", "seed", "goal", "source", "training of the source"],
)
def test_every_input_is_in_the_key(other):
    assert key_of(other, "data") != key_of(PART, "data")


def test_the_data_and_the_version_are_in_the_key(monkeypatch):
    key = key_of(PART, "data")
    assert key_of(PART, "other data") != key
    key_of.cache_clear()
    monkeypatch.setattr(Craft, "version", 2)
    assert key_of(PART, "data") != key
    key_of.cache_clear()


def test_options_are_written_whole():
    options = options_of(PART, "data")
    assert options["attack"] == {
        "type": "Fgs",
        "epsilon": 0.1,
        "objective": {"type": "CrossEntropy", "of": "logits", "targeted": False},
    }
    assert options["source"] == key_of(LINEUP.guard, "data")
    assert options_of(LINEUP.guard.train, "data")["recipe"]["gamma"] == 0.2


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"pgd_steps": 3}, {"craft pgd", "judge pgd", "evaluate"}),
        ({"igs_steps": 3}, {"craft igs", "judge igs", "evaluate"}),
        ({"cw_rounds": 2}, {"craft cw", "judge cw"}),
        ({"generated": 13}, {"craft cw", "judge cw"}),
        ({"evaluated": 7}, {"evaluate"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_one_option_touches_its_own_units_alone(change, touched):
    before, after = _keys(), _keys(replace(tiny.CONFIG, **change))
    changed = {" ".join(after[key].title.split()[:2]) for key in after.keys() - before.keys()}
    assert {title if not title.startswith("evaluate") else "evaluate" for title in changed} == touched
    assert len(before) == len(after)


def test_cheap_and_telling_comes_first():
    titles = [unit.title for unit in _keys().values()]
    first = next(place for place, title in enumerate(titles) if title.startswith("judge pgd"))
    assert first < next(place for place, title in enumerate(titles) if title.startswith("judge fgs"))
    assert first < next(place for place, title in enumerate(titles) if "(lock" in title)
    assert sum(title.startswith("train") for title in titles[:first]) == 2


def test_a_network_of_the_ablation_that_is_a_headline_is_trained_once():
    trained = [unit.title for unit in _keys().values() if unit.kind == "train"]
    assert len(trained) == len(set(trained)) == 2 + 4 + 5
    longer = _keys(preset=replace(tiny.PRESET, ablation_epochs=1))
    assert sum(unit.kind == "train" for unit in longer.values()) == 2 + 4 + 9
