"""Figures 1 and 9 to 12: what adversarial images look like, and what each file says to them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import matplotlib as mpl
import numpy as np

from calibration.attacks.attack import FloatArray, IntArray
from calibration.pixels import to_pixels
from cmt_export.reproduction.figure_style import INK, SETTINGS, png, say_nothing_there, styled
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import Judged, JudgeSet
from cmt_export.reproduction.preset import KAPPAS
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import BLACK_BOX, ORACLE, Parts, Sets
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import Unit

_COLUMNS = 10
_LETTERS = 10
_FOOLED, _STOPPED = "#b3241c", "#3f7d4e"


class _Row(NamedTuple):
    """One row of pictures: what they are, the set, who judges it, and which κ."""

    name: str
    judge: Export
    parts: Parts
    place: int = 0


class _Strip(NamedTuple):
    """Pictures ``(n, C, H, W)``, and below each a caption in a colour."""

    name: str
    pixels: FloatArray
    captions: list[tuple[str, str]]


class Gallery(Section):
    """Rows of pictures of the same test images.

    Attributes:
        title: What is above them.
    """

    title: ClassVar[str]

    @abstractmethod
    def rows(self, sets: Sets) -> tuple[_Row, ...]:
        """Return what to show."""

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the judgements of every row."""
        return tuple(dict.fromkeys(JudgeSet(judge=row.judge, parts=row.parts) for row in self.rows(sets)))

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the pictures of what is known."""
        strips = [strip for row in self.rows(found.sets) if (strip := _strip(found, row)) is not None]
        strips = [_benign(found), *strips] if strips else []
        with mpl.rc_context(SETTINGS):
            if not strips:
                figure = styled((7.0, 1.0))
                axes = figure.add_subplot()
                axes.set_axis_off()
                say_nothing_there(axes)
            else:
                figure = _drawn(self.title, strips)
            return {f"figures/{self.name}.png": png(figure)}


class AttacksGallery(Gallery):
    """Figure 1: the same images under each attack."""

    name = "figure1"
    title = "Under attack, and what the undefended network says"

    def rows(self, sets: Sets) -> tuple[_Row, ...]:
        """Return one row for each attack on the oracle, and JSMA from the substitute."""
        oracle = sets.lineup.oracle
        rows = [
            _Row(name, oracle, sets.transferred(ORACLE, attack))
            for attack, name in (("fgs", "FGS"), ("igs", "IGS"), ("deepfool", "DeepFool"), ("cw", "C&W, κ = 0"))
        ]
        return (*rows, _Row("JSMA", sets.sources[BLACK_BOX], sets.jsma))


class GeneratedGallery(Gallery):
    """Figures 9 to 12: C&W on the original file, and on the defended one by attackers who know of it.

    Attributes:
        targeted: Whether the attacker has a target.
        kappa: κ.
    """

    targeted: ClassVar[bool]
    kappa: ClassVar[float]

    def rows(self, sets: Sets) -> tuple[_Row, ...]:
        """Return the original file, and both attackers on the defended one."""
        oracle, guard, place = sets.lineup.oracle, sets.lineup.guard, KAPPAS.index(self.kappa)
        return (
            _Row("original", oracle, sets.generated(oracle, "label", targeted=self.targeted), place),
            _Row("defended, Eq. 10", guard, sets.generated(guard, "eq-10", targeted=self.targeted), place),
            _Row("defended, pair", guard, sets.generated(guard, "pair", targeted=self.targeted), place),
        )


class Figure9(GeneratedGallery):
    """Non-targeted, κ = 0."""

    name, title, targeted, kappa = "figure9", "Non-targeted C&W, κ = 0", False, 0.0


class Figure10(GeneratedGallery):
    """Non-targeted, κ = 40."""

    name, title, targeted, kappa = "figure10", "Non-targeted C&W, κ = 40", False, 40.0


class Figure11(GeneratedGallery):
    """Targeted, κ = 0."""

    name, title, targeted, kappa = "figure11", "Targeted C&W, κ = 0", True, 0.0


class Figure12(GeneratedGallery):
    """Targeted, κ = 40."""

    name, title, targeted, kappa = "figure12", "Targeted C&W, κ = 40", True, 40.0


def _strip(found: Found, row: _Row) -> _Strip | None:
    """Return the first pictures of a set, one of each class where there is; None while it is not made."""
    judged = found.judged(row.judge, row.parts)
    if judged is None:
        return None
    examples = [part for part in map(found.examples, row.parts) if part is not None]
    places = np.searchsorted(judged.rows, _chosen(found))
    pixels = np.concatenate([part.x_adv[row.place] for part in examples])[places]
    return _Strip(row.name, pixels, [_caption(judged, row.place, place, found) for place in places])


def _benign(found: Found) -> _Strip:
    rows, test = _chosen(found), found.data.test
    names = [found.data.classes[label][:_LETTERS] for label in test.labels[rows]]
    return _Strip("benign", to_pixels(test.images[rows]), [(name, INK) for name in names])


def _chosen(found: Found) -> IntArray:
    """Return test images that every set holds, one of each class as far as there are, where they lie."""
    config, test = found.lineup.config, found.data.test
    rows = test.sample(min(config.n, config.generated), seed=config.seed)
    _, first = np.unique(test.labels[rows], return_index=True)
    return rows[np.sort(first)][:_COLUMNS]


def _caption(judged: Judged, sweep: int, place: int, found: Found) -> tuple[str, str]:
    label = int(judged.labels[sweep, place])
    name = "none" if label < 0 else found.data.classes[label][:_LETTERS]
    if not judged.accepted[sweep, place]:
        return "rejected", _STOPPED
    return name, _STOPPED if label == judged.truth[place] else _FOOLED


def _drawn(title: str, strips: Sequence[_Strip]) -> mpl.figure.Figure:
    columns = max(len(strip.pixels) for strip in strips)
    figure = styled((0.9 + 0.68 * columns, 0.35 + 0.86 * len(strips)))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    grid = figure.subplots(len(strips), columns, squeeze=False)
    for line, strip in zip(grid, strips, strict=True):
        for axes in line:
            axes.set_axis_off()
        line[0].text(-0.15, 0.5, strip.name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
        for axes, pixels, (caption, colour) in zip(line, strip.pixels, strip.captions, strict=False):
            axes.imshow(pixels.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.text(0.5, -0.06, caption, transform=axes.transAxes, ha="center", va="top", fontsize=7, color=colour)
    return figure
