"""What the paper claims outside its tables: the cost to benign users, the effort to the robust class, JSMA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from calibration.results.phrasing import percent
from cmt_export.reproduction import published
from cmt_export.reproduction.cell import Cell, count
from cmt_export.reproduction.crafting import Sample
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.goals import Targets
from cmt_export.reproduction.judging import JudgeBenign, Judged, JudgeSet
from cmt_export.reproduction.lineup import GUARD, UNLOCKED
from cmt_export.reproduction.markdown import NOT_RUN, beside, legend, table
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import Unit

_OTHERS: tuple[Targets, ...] = ("likeliest", "random")
_WRONG, _FOOLED, _REJECTED = "wrong answers", "fooled", "rejected"
_WORDS = {"partner": "the robust class", "likeliest": "the likeliest wrong class", "random": "a random wrong class"}


def benign_unit(sets: Sets, judge: Export) -> JudgeBenign:
    """Return the unit that judges the benign test images."""
    sample = Sample(n=sets.lineup.config.n, seed=sets.lineup.config.seed)
    return JudgeBenign(judge=judge, images=sets.images, sample=sample)


class Claims(Section):
    """Sections 4.5, 5.1 and 7."""

    name = "claims"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return judgements of benign images, of targeted C&W and of JSMA."""
        lineup = sets.lineup
        benign = [benign_unit(sets, file) for file in (lineup.oracle, lineup.guard, lineup.defended[UNLOCKED])]
        effort = [_effort(sets, file, to) for file in _files(sets).values() for to in ("partner", *_OTHERS)]
        jsma = [JudgeSet(judge=file, parts=sets.jsma) for file in _files(sets).values()]
        return (*benign, *jsma, *effort)

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return every figure."""
        return (*_cost(found), *_jsma(found), *_farther(found))

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the page."""
        cost, jsma, farther = (
            table(("what", "published → ours"), [[", ".join(cell.name[1:]), beside(cell)] for cell in cells])
            for cells in (_cost(found), _jsma(found), _farther(found))
        )
        page = (
            "# The paper's other claims\n\n## What it costs benign users (section 4.5)\n\n"
            f"{cost}\n{_LOSS}\n{legend(_cost(found))}\n"
            f"## JSMA from the substitute is still stopped (section 7)\n\n{jsma}\n{_JSMA}\n"
            f"## The robust class takes more effort (section 5.1)\n\n{farther}\n{_effort_table(found)}\n{_EFFORT}"
        )
        return {"claims.md": page.encode()}


_LOSS = (
    "Published accuracies are the oracle's here less what the paper lost. *Through Z* is the paper's grey-box defence: "
    "over the accepted images. With a lock Z alone is no classifier, so the network without a lock stands for it too.\n"
)
_JSMA = (
    "Wrong answers are counted through Z*, fooled ones are those that the rule accepts as well. The paper has no "
    "figures; its claim holds where the defence is fooled by far fewer than change the undefended network's label.\n"
)
_EFFORT = (
    "Least L2 changes that C&W (κ = 0) finds to each class. The claim, δr > δi, holds where more than half of the "
    "images that were brought to both classes have the robust class farther away.\n"
)


def _files(sets: Sets) -> dict[str, Export]:
    return {"original": sets.lineup.oracle, "defended": sets.lineup.guard}


def _effort(sets: Sets, file: Export, targets: Targets) -> JudgeSet:
    return JudgeSet(judge=file, parts=sets.effort(file, targets))


def _cost(found: Found) -> list[Cell]:
    """Return accuracies on benign images, and how many are rejected."""
    sets, lineup = found.sets, found.lineup
    units = {
        name: benign_unit(sets, file)
        for name, file in (("oracle", lineup.oracle), (GUARD, lineup.guard), (UNLOCKED, lineup.defended[UNLOCKED]))
    }
    benign = {name: found.benign(unit) for name, unit in units.items()}
    oracle, guard, unlocked = benign["oracle"], benign[GUARD], benign[UNLOCKED]
    top = None if oracle is None else float((oracle.labels == oracle.truth).mean())

    def bar(threat: str) -> float | None:
        lost = published.ACCURACY_LOST.get((lineup.preset.name, threat))
        return None if top is None or lost is None else top - lost

    def cell(
        what: str, paper: float | None, mask: np.ndarray | None, name: str, better: Literal["higher", "lower"]
    ) -> Cell:
        counted = None if mask is None else count(mask)
        return Cell(name=("section 4.5", what), published=paper, better=better, found=counted, unit=units[name])

    through_z_star = None if guard is None else guard.labels == guard.truth
    through_z = None if guard is None else (guard.unlocked == guard.truth)[guard.accepted]
    without_lock = None if unlocked is None else (unlocked.labels == unlocked.truth)[unlocked.accepted]
    rejected = published.WRONGLY_REJECTED.get(lineup.preset.name)
    return [
        cell("accuracy, oracle", None, None if oracle is None else oracle.labels == oracle.truth, "oracle", "higher"),
        cell("accuracy through Z*, defended", bar("black-box"), through_z_star, GUARD, "higher"),
        cell("accuracy through Z, accepted images, no lock", bar("grey-box"), without_lock, UNLOCKED, "higher"),
        cell("accuracy through Z, accepted images, trained lock", bar("grey-box"), through_z, GUARD, "higher"),
        cell("wrongly rejected, defended", rejected, None if guard is None else ~guard.accepted, GUARD, "lower"),
    ]


def _jsma(found: Found) -> list[Cell]:
    cells = []
    for model, file in _files(found.sets).items():
        unit = JudgeSet(judge=file, parts=found.sets.jsma)
        judged = found.judged(file, found.sets.jsma)
        masks = (
            {} if judged is None else {_WRONG: ~judged.right, _FOOLED: judged.generated, _REJECTED: ~judged.accepted}
        )
        for what in (_WRONG, _FOOLED, *([_REJECTED] if model == "defended" else [])):
            counted = count(masks[what][0]) if masks else None
            name = ("section 7", model, what)
            cells.append(Cell(name=name, published=None, better="lower", found=counted, unit=unit))
    return cells


def _farther(found: Found) -> list[Cell]:
    """Return how often the robust class is farther away than another one."""
    cells = []
    for model, file in _files(found.sets).items():
        robust, unit = _distances(found, file, "partner"), _effort(found.sets, file, "partner")
        for other in _OTHERS:
            near = _distances(found, file, other)
            counted, known = None, False
            if robust is not None and near is not None:
                known, both = True, np.isfinite(robust) & np.isfinite(near) & (robust != near)
                counted = count(robust[both] > near[both])
            name = ("section 5.1", model, f"the robust class is farther than {_WORDS[other]}")
            empty = known and counted is None
            cells.append(Cell(name=name, published=None, better="higher", found=counted, unit=unit, undefined=empty))
    return cells


def _effort_table(found: Found) -> str:
    rows = []
    for model, file in _files(found.sets).items():
        for to in ("partner", *_OTHERS):
            lengths = _distances(found, file, to)
            if lengths is None:
                rows.append([model, _WORDS[to], NOT_RUN, NOT_RUN])
                continue
            reached = lengths[np.isfinite(lengths)]
            middle = f"{np.median(reached):.3g}" if len(reached) else "none reached"
            rows.append([model, _WORDS[to], percent(len(reached) / len(lengths)), middle])
    return table(("model", "to", "reached", "median L2 of the change"), rows)


def _distances(found: Found, file: Export, targets: Targets) -> np.ndarray | None:
    """Return the L2 length of the change that brought each image to its target, infinite where none did, ``(n,)``."""
    judged: Judged | None = found.judged(file, found.sets.effort(file, targets))
    if judged is None:
        return None
    return np.where(judged.labels[0] == judged.targets, judged.l2[0], np.inf)
