"""One self-contained HTML file from results: the verdict first, then everything a reviewer needs to doubt it.

The page needs no network and no script, and may use neither: its Content-Security-Policy allows pictures inside the
file and the one style sheet whose hash it names. Everything that comes out of the results is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from calibration import phrasing
from calibration.confusion_table import confusion_table
from calibration.findings import FALLS_ABOVE, LARGEST_GRADIENT_ERROR, conclude, warnings
from calibration.gallery import exhibit
from calibration.plots import Outcome, budget_curves, draw_curves
from calibration.results import Cell, Results
from calibration.threats import THREATS
from runtime.atomic import atomic_output
from runtime.errors import UsageError

_LOADER = PackageLoader("calibration")
_PAGES = Environment(
    loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
)
_PLOTTED: tuple[tuple[str, Outcome], ...] = (("Accepted and wrong", "fooled"), ("Rejected", "rejected"))


@dataclass(frozen=True, kw_only=True)
class Group:
    """All attacks under one reading of one threat.

    Attributes:
        name: Threat and reading.
        knows: What the attacker has, in one sentence; empty for a threat of another version.
        cells: The attacks.
        plots: Title and SVG of each curve against the budget; empty where there was one budget only.
    """

    name: str
    knows: str
    cells: tuple[Cell, ...]
    plots: tuple[tuple[str, Markup], ...]


def render_report(results: Results) -> str:
    """Return the report as one HTML document, the same text for the same results.

    Args:
        results: What `calibration.evaluation` found.

    Raises:
        UsageError: A picture in the results is no PNG, or a label names no class.
    """
    css = _LOADER.get_source(_PAGES, "report.css")[0]
    return _PAGES.get_template("report.html.j2").render(
        results=results,
        model=results.model,
        finding=conclude(results),
        warnings=warnings(results),
        groups=_groups(results.cells),
        galleries=[(cell, [exhibit(example) for example in cell.examples]) for cell in results.cells if cell.examples],
        confusion=confusion_table(results.model),
        class_name=lambda label: _class_name(results.model.classes, label),
        css=Markup(css),
        css_hash=_csp_hash(css),
        limits={"falls": FALLS_ABOVE, "gradient": LARGEST_GRADIENT_ERROR},
        say=phrasing,
        quote=shlex.quote,
        record_text=_record_text,
    )


def write_report(results: Results, path: str | os.PathLike[str]) -> None:
    """Write the report, whole or not at all.

    Args:
        results: What `calibration.evaluation` found.
        path: The HTML file; an existing one is replaced.

    Raises:
        UsageError: As for `render_report`.
        CmtError: The file cannot be written.
    """
    page = render_report(results).encode("utf-8", "backslashreplace")
    with atomic_output(path) as temporary:
        temporary.write_bytes(page)


def _groups(cells: Sequence[Cell]) -> tuple[Group, ...]:
    by_threat = itertools.groupby(cells, key=lambda cell: (cell.threat, cell.reading))
    return tuple(_group(threat, reading, tuple(members)) for (threat, reading), members in by_threat)


def _group(threat: str, reading: str, cells: tuple[Cell, ...]) -> Group:
    name = phrasing.threat_name(threat, reading)
    known = (one.knows for one in THREATS if (one.name, one.reading) == (threat, reading))
    plots = []
    for title, outcome in _PLOTTED:
        curves = budget_curves(cells, outcome)
        if curves:
            plots.append((title, Markup(draw_curves(curves, outcome=outcome, key=f"{name} {outcome}"))))
    return Group(name=name, knows=next(known, ""), cells=cells, plots=tuple(plots))


def _class_name(classes: Sequence[str], label: int) -> str:
    if label == -1:
        return "no class"
    if not 0 <= label < len(classes):
        raise UsageError(f"results: expected labels from -1 to {len(classes) - 1}, got {label}; run `cmt attack` again")
    return classes[label]


def _record_text(record: object) -> str:
    """Return a record as indented JSON, each list of plain values on one line."""
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    return re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found.group()), text)


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
