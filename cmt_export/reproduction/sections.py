"""Every part of the outcome by the name that ``--only`` takes, and the order in which their work is done."""

from __future__ import annotations

from collections.abc import Mapping

from cmt_export.reproduction.ablation import Ablation
from cmt_export.reproduction.claims import Claims
from cmt_export.reproduction.confusion_figure import ConfusionFigure
from cmt_export.reproduction.cost_figure import CostFigure
from cmt_export.reproduction.evaluating import Evaluate
from cmt_export.reproduction.galleries import AttacksGallery, Figure9, Figure10, Figure11, Figure12
from cmt_export.reproduction.guard_section import GuardSection
from cmt_export.reproduction.headline import Headline
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.kappa_figures import BlackBoxDetection, GreyBoxDetection, TransferFigure
from cmt_export.reproduction.lineup import UNLOCKED
from cmt_export.reproduction.report_section import ReportSection
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.table5 import Table5
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.transfer import Table3, Table4
from cmt_export.reproduction.unit import Unit, with_needs

SECTIONS: Mapping[str, Section] = {
    section.name: section
    for section in (
        Headline(),
        Table3(),
        Table4(),
        Table5(),
        Claims(),
        Ablation(),
        AttacksGallery(),
        ConfusionFigure(),
        TransferFigure(),
        BlackBoxDetection(),
        GreyBoxDetection(),
        CostFigure(),
        Figure9(),
        Figure10(),
        Figure11(),
        Figure12(),
        ReportSection(),
        GuardSection(),
    )
}
"""In the order of the summary."""

_ATTACKS = ("pgd", "fgs", "igs", "deepfool", "generated", "jsma", "cw")
"""Cheap and telling before slow: what an attacker who knows the rule gets comes first."""

_TRAINING = 10
"""How many places each further network sets work back."""


def in_order(names: tuple[str, ...], sets: Sets) -> tuple[Unit, ...]:
    """Return the work of some sections, what each unit needs before it: cheap and telling first."""
    units = dict.fromkeys(unit for name in names for unit in SECTIONS[name].units(sets))
    return with_needs(tuple(sorted(units, key=lambda unit: _urgency(unit, sets))))


def _urgency(unit: Unit, sets: Sets) -> int:
    lineup = sets.lineup
    usual = [lineup.oracle, lineup.guard, lineup.substitute, lineup.defended[UNLOCKED]]
    usual += [*lineup.defended.values(), *lineup.ablation.values()]
    networks = [usual.index(needed) for needed in with_needs((unit,)) if isinstance(needed, Export)]
    trainings = max(0, max(networks) - 2) * _TRAINING
    if isinstance(unit, Evaluate):
        return trainings + len(_ATTACKS)
    if not isinstance(unit, JudgeSet):
        return trainings
    part = unit.parts[0]
    slow = part.attack.name == "cw" and part.sample.n == lineup.config.generated
    return trainings + 1 + _ATTACKS.index("generated" if slow else part.attack.name)
