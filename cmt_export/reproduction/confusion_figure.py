"""Figure 2: which class an attacked image of each class ends in."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np

from cmt_export.reproduction.figure_style import INK, SETTINGS, say_nothing_there, styled, svg
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import ORACLE, Parts, Sets
from cmt_export.reproduction.unit import Unit


class ConfusionFigure(Section):
    """Confusion of FGS examples on the oracle."""

    name = "figure2"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the oracle's judgement of its own FGS examples."""
        return (JudgeSet(judge=sets.lineup.oracle, parts=_parts(sets)),)

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the heat map."""
        judged = found.judged(found.lineup.oracle, _parts(found.sets))
        spec = found.spec(found.lineup.oracle)
        with mpl.rc_context(SETTINGS):
            figure = styled((4.6, 4.1))
            axes = figure.add_subplot()
            if judged is None or spec is None:
                say_nothing_there(axes)
                return {"figures/figure2.svg": svg(figure, key=self.name)}
            k = len(spec.classes)
            shares = np.zeros((k, k))
            np.add.at(shares, (judged.truth, judged.labels[0]), 1)
            shares = 100 * shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=max(60.0, float(shares.max())))
            for i, j in np.ndindex(k, k):
                if shares[i, j] >= 0.5:
                    colour = "white" if shares[i, j] > 0.55 * max(60.0, float(shares.max())) else INK
                    axes.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
            names = [name[:10] for name in spec.classes]
            turned = 0 if max(map(len, names)) < 3 else 45
            axes.set_xticks(range(k), names, rotation=turned, ha="right" if turned else "center")
            axes.set_yticks(range(k), names)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set(xlabel="label under attack", ylabel="true label")
            axes.set_title(f"FGS, ε = {found.sets.epsilon:.3g}, on the oracle: % of each row, n {judged.truth.size:,}")
            return {"figures/figure2.svg": svg(figure, key=self.name)}


def _parts(sets: Sets) -> Parts:
    return sets.transferred(ORACLE, "fgs")
