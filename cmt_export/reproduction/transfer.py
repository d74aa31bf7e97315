"""Tables 3 and 4: accuracy through Z*, and detection, on examples of black-box and grey-box attackers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

from calibration.results.phrasing import percent
from cmt_export.reproduction import published
from cmt_export.reproduction.cell import Cell, count
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.lineup import DEFENDED, GUARD
from cmt_export.reproduction.markdown import beside, failures, legend, table
from cmt_export.reproduction.preset import KAPPAS
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import BLACK_BOX, ORACLE, READINGS, Sets
from cmt_export.reproduction.unit import Unit

NAMES = {"fgs": "FGS", "igs": "IGS", "deepfool": "DeepFool", "cw": "C&W L2"}
_PAPER_KAPPA = 40.0
_OTHER_KAPPAS = (0.0, 10.0)

Model = Literal["original", "defended"]


class _Place(NamedTuple):
    """One figure: who attacks what with what, and who judges."""

    threat: str
    model: Model
    attack: str
    reading: str
    option: str
    unit: JudgeSet
    row: int

    @property
    def name(self) -> tuple[str, ...]:
        return self.threat, self.model, NAMES[self.attack], self.reading


class TransferTable(Section):
    """Table 3 or 4.

    Attributes:
        number: Of the table in the paper.
        title: What it shows.
        attacks: Its columns.
        models: Its rows, for each threat.
        paper: The paper's figures.
    """

    number: ClassVar[int]
    title: ClassVar[str]
    attacks: ClassVar[tuple[str, ...]]
    models: ClassVar[tuple[Model, ...]]
    paper: ClassVar[Mapping[published.Key, published.Row]]

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the judgements of every reading and option."""
        return tuple(dict.fromkeys(place.unit for place in self._places(sets)))

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return every figure: the headline of each published cell, its other readings, then options."""
        cells = [self._cell(found, place) for place in self._places(found.sets) if place.model in self.models]
        weaker = {
            (place.threat, place.attack): original
            for place in self._places(found.sets)
            if place.model == "original" and not place.option
            for original in [_original(found, place)]
            if original.verdict == "does not reproduce"
        }
        return tuple(_warned(cell, weaker) for cell in cells)

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the page."""
        cells = self.cells(found)
        headline, options = [cell for cell in cells if not cell.option], [cell for cell in cells if cell.option]
        headings = ("threat", "model", "reading", *(NAMES[attack] for attack in self.attacks))
        other = ("threat", "model", "reading", "departs in", *(NAMES[attack] for attack in self.attacks))
        page = (
            f"# Table {self.number}: {self.title}\n\n{table(headings, self._rows(headline))}\n{legend(headline)}\n"
            f"{_READINGS}\n## Cells that do not reproduce\n\n{failures(cells)}\n"
            f"## Other options\n\n{table(other, self._rows(options, with_option=True))}"
        )
        return {f"table{self.number}.md": page.encode()}

    def _rows(self, cells: list[Cell], *, with_option: bool = False) -> list[list[str]]:
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        for cell in cells:
            threat, model, attack, reading = cell.name
            key = (threat, model, reading, *([cell.option] if with_option else []))
            rows.setdefault(key, {})[attack] = beside(cell)
        return [[*key, *(row.get(NAMES[attack], "") for attack in self.attacks)] for key, row in rows.items()]

    @abstractmethod
    def _cell(self, found: Found, place: _Place) -> Cell:
        """Return one figure of the table."""

    def _published(self, found: Found, place: _Place) -> float | None:
        key = found.lineup.preset.name, place.threat, place.model
        return published.published(self.paper, key, published.ATTACKS.index(place.attack))

    def _places(self, sets: Sets) -> Iterator[_Place]:
        for threat, readings in READINGS.items():
            for attack in self.attacks:
                source = BLACK_BOX if threat == "black-box" else ORACLE
                yield from _options(sets, threat, "original", attack, source, (("", None),))
                for reading in readings:
                    judges = tuple(("" if name == GUARD else name, name) for name in DEFENDED)
                    yield from _options(sets, threat, "defended", attack, reading, judges)


class Table3(TransferTable):
    """Accuracy through Z*, the rule ignored."""

    name = "table3"
    number = 3
    title = "accuracy through Z* on non-targeted adversarial examples"
    attacks = published.ATTACKS
    models = ("original", "defended")
    paper = published.TABLE3

    def _cell(self, found: Found, place: _Place) -> Cell:
        return _original(found, place) if place.model == "original" else _accuracy(found, place, "higher")


class Table4(TransferTable):
    """Detection rate: rejected of all examples, attacks that failed included."""

    name = "table4"
    number = 4
    title = "detection rate over the whole adversarial set, failed attacks included"
    attacks = published.ATTACKS[:3]
    models = ("defended",)
    paper = published.TABLE4

    def _cell(self, found: Found, place: _Place) -> Cell:
        judged = found.judged(place.unit.judge, place.unit.parts)
        return Cell(
            name=place.name,
            option=place.option,
            published=self._published(found, place),
            better="higher",
            found=None if judged is None else count(~judged.accepted[place.row]),
            unit=place.unit,
        )


_READINGS = (
    "The paper has one grey-box; it is read in three ways. `z-star`: on the defended file's own Z*, the rule unknown, "
    "the strictest and the headline. `z`: on Z of the network trained without the lock. `oracle`: on the undefended "
    "network. Attack settings that the paper leaves open are the attacks' own standard values, in `results.json`.\n"
)


def _options(
    sets: Sets, threat: str, model: Model, attack: str, reading: str, judges: tuple[tuple[str, str | None], ...]
) -> Iterator[_Place]:
    """Yield the headline of one cell, then its options: another judge, another ε, another κ."""
    lineup = sets.lineup

    def place(option: str, judge: str | None, *, epsilon: float | None = None, kappa: float = _PAPER_KAPPA) -> _Place:
        file = lineup.oracle if judge is None else lineup.defended[judge]
        unit = JudgeSet(judge=file, parts=sets.transferred(reading, attack, epsilon=epsilon))
        row = KAPPAS.index(kappa) if attack == "cw" else 0
        return _Place(threat, model, attack, reading, option, unit, row)

    for option, judge in judges:
        yield place(option, judge)
    first = judges[0][1]
    if attack in ("fgs", "igs"):
        for epsilon in lineup.preset.epsilons[1:]:
            yield place(f"ε = {epsilon:.3g}", first, epsilon=epsilon)
    if attack == "cw":
        for kappa in _OTHER_KAPPAS:
            yield place(f"κ = {kappa:g}", first, kappa=kappa)


def _accuracy(found: Found, place: _Place, better: Literal["higher", "lower"]) -> Cell:
    judged = found.judged(place.unit.judge, place.unit.parts)
    key = found.lineup.preset.name, place.threat, place.model
    return Cell(
        name=place.name,
        option=place.option,
        published=published.published(published.TABLE3, key, published.ATTACKS.index(place.attack)),
        better=better,
        found=None if judged is None else count(judged.right[place.row]),
        unit=place.unit,
    )


def _original(found: Found, place: _Place) -> Cell:
    """Return the accuracy that an attack leaves the undefended network: the lower, the stronger the attack."""
    return _accuracy(found, place, "lower")


def _warned(cell: Cell, weaker: Mapping[tuple[str, str], Cell]) -> Cell:
    """Return a cell of the defence with the warning that the attack is weaker than the paper's, where it is."""
    threat, model, attack, _ = cell.name
    original = next((one for (of, name), one in weaker.items() if (of, NAMES[name]) == (threat, attack)), None)
    if model == "original" or original is None or cell.option or original.found is None or not cell.reproduces:
        return cell
    left = f"it leaves the undefended network {percent(original.found.interval.value)}"
    paper = "" if original.published is None else f", the paper's {percent(original.published)}"
    return replace(cell, caveat=f"the attack as it is here is weaker than the paper's: {left}{paper}")
