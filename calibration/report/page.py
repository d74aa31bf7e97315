"""One self-contained HTML file from results: the verdict first, then everything a reviewer needs to doubt it.

The page needs no network and no script, and may use neither: its Content-Security-Policy allows pictures inside the
file and the one style sheet whose hash it names. Everything that comes out of the results is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from calibration.findings import FALLS_ABOVE, conclude
from calibration.findings.briefing import brief
from calibration.findings.doubts import warnings
from calibration.report.confusion_table import confusion_table
from calibration.report.curves import (
    Curve,
    budget_curves,
    distance_curves,
    roc_curves,
    together_curves,
)
from calibration.report.gallery import exhibit
from calibration.report.plots import Kind, draw_curves
from calibration.results import Results, phrasing
from calibration.results.pairs import grouped
from calibration.results.records import Cell
from calibration.sanity.figures import LARGEST_GRADIENT_ERROR, LOST_MOST
from calibration.threats import THREATS
from runtime.atomic import atomic_output
from runtime.errors import UsageError

LOADER = PackageLoader("calibration.report")
PAGES = Environment(
    loader=LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
)
_TITLES: dict[Kind, str] = {
    "fooled": "Accepted and wrong",
    "rejected": "Rejected",
    "distance": "Accepted and wrong within a distance",
    "together": "Accepted and wrong under any attack",
    "roc": "ROC of the confidence",
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """All attacks under one reading of one threat.

    Attributes:
        name: Threat and reading.
        knows: What the attacker has, in one sentence; empty for a threat of another version.
        cells: The attacks.
        plots: Title and SVG of each figure; empty where there is nothing to draw.
    """

    name: str
    knows: str
    cells: tuple[Cell, ...]
    plots: tuple[tuple[str, Markup], ...]


def render_report(results: Results, *, parts: Sequence[Results] = ()) -> str:
    """Return the report as one HTML document, the same text for the same results.

    Args:
        results: What `calibration.evaluation` found, or `results.joining.join` of several.
        parts: What they were joined of, for the commands to repeat; none for results of one command.

    Raises:
        UsageError: A picture in the results is no PNG, or a label names no class.
    """
    css = LOADER.get_source(PAGES, "report.css")[0]
    return PAGES.get_template("report.html.j2").render(
        results=results,
        parts=parts or (results,),
        model=results.model,
        finding=conclude(results),
        briefing=brief(results),
        warnings=warnings(results),
        together=_plot("together", together_curves(results), "all"),
        groups=_groups(results),
        galleries=[(cell, [exhibit(example) for example in cell.examples]) for cell in results.cells if cell.examples],
        benign_error=next((one.detection.benign_error_at_99 for one in results.cells if one.detection), None),
        confusion=confusion_table(results.model),
        class_name=lambda label: class_name(results.model.classes, label),
        css=Markup(css),
        css_hash=csp_hash(css),
        limits={"falls": FALLS_ABOVE, "gradient": LARGEST_GRADIENT_ERROR, "lost": LOST_MOST},
        say=phrasing,
        quote=shlex.quote,
        record_text=_record_text,
    )


def write_report(results: Results, path: str | os.PathLike[str], *, parts: Sequence[Results] = ()) -> None:
    """Write the report, whole or not at all.

    Args:
        results: As for `render_report`.
        path: The HTML file; an existing one is replaced.
        parts: As for `render_report`.

    Raises:
        UsageError: As for `render_report`.
        CmtError: The file cannot be written.
    """
    page = render_report(results, parts=parts).encode("utf-8", "backslashreplace")
    with atomic_output(path) as temporary:
        temporary.write_bytes(page)


def class_name(classes: Sequence[str], label: int) -> str:
    """Return the name of a label; -1 stands for none.

    Raises:
        UsageError: The label names no class.
    """
    if label == -1:
        return "no class"
    if not 0 <= label < len(classes):
        raise UsageError(f"results: expected labels from -1 to {len(classes) - 1}, got {label}; run `cmt attack` again")
    return classes[label]


def _groups(results: Results) -> tuple[Group, ...]:
    return tuple(
        _group(members, results) for members in grouped(results.cells, lambda cell: (cell.threat, cell.reading))
    )


def _group(cells: list[Cell], results: Results) -> Group:
    threat, reading = cells[0].threat, cells[0].reading
    name = phrasing.threat_name(threat, reading)
    known = (one.knows for one in THREATS if (one.name, one.reading) == (threat, reading))
    plots = (
        *_plot("fooled", budget_curves(cells, "fooled"), name),
        *_plot("rejected", budget_curves(cells, "rejected"), name),
        *_plot("distance", distance_curves(cells, results), name),
        *_plot("roc", roc_curves(cells, results), name),
    )
    return Group(name=name, knows=next(known, ""), cells=tuple(cells), plots=plots)


def _plot(kind: Kind, curves: Sequence[Curve], of: str) -> tuple[tuple[str, Markup], ...]:
    """Return title and SVG of a figure, or nothing where there is no curve."""
    if not curves:
        return ()
    return ((_TITLES[kind], Markup(draw_curves(curves, kind=kind, key=f"{of} {kind}"))),)


def _record_text(record: object) -> str:
    """Return a record as indented JSON, each list of plain values on one line."""
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    return re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found.group()), text)


def csp_hash(text: str) -> str:
    """Return what a Content-Security-Policy calls a style sheet of that text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
