"""A comparison as files: one table in Markdown, every figure in JSON, one drawing, one page that needs no network."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from calibration.comparing.figure import comparison_figure
from calibration.comparing.records import AtBudget, Comparison, Defence, ThresholdKind
from calibration.findings import FALLS_ABOVE
from calibration.metrics import Interval
from calibration.report.model_card import CARDS, Verbatim, one_line
from calibration.report.page import LOADER, PAGES, csp_hash
from calibration.results import phrasing
from runtime.atomic import atomic_output

SUFFIXES = (".md", ".json", ".svg", ".html")
"""What `write_comparison` writes beside each other, behind the name ``defences``."""

STEM = "defences"

THRESHOLDS: dict[ThresholdKind, str] = {
    "calibrated": "calibrated to 99 % and attacked there",
    "re-chosen": "threshold re-chosen after the attack: too good",
    "own": "at its own threshold: not every rule can accept 99 %",
}
"""What stands beside figures at 99 %, for each kind of threshold."""


def write_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write every form of a comparison into a folder, each file whole or not at all.

    Args:
        comparison: What to write.
        folder: Where; made if it is not there. No drawing is written where no budget was tried.

    Returns:
        The files, in the order of `SUFFIXES`.

    Raises:
        CmtError: A file cannot be written.
    """
    texts = {
        ".md": render_table(comparison),
        ".json": json.dumps(asdict(comparison), allow_nan=False, indent=1) + "\n",
        ".svg": comparison_figure(comparison, page=False),
        ".html": render_page(comparison),
    }
    files = []
    for suffix, text in texts.items():
        if text:
            file = Path(folder) / f"{STEM}{suffix}"
            with atomic_output(file) as temporary:
                temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
            files.append(file)
    return tuple(files)


def render_table(comparison: Comparison) -> str:
    """Return the comparison in Markdown, the same text for the same comparison."""
    commands = [Verbatim(one_line(command)) for command in _commands(comparison)]
    return CARDS.get_template("defences.md.j2").render(
        comparison=comparison,
        thresholds=THRESHOLDS,
        headline=headline(comparison),
        caution=caution(comparison),
        commands=commands,
        lead=Verbatim,
        share=_share,
        starts=starts,
        say=phrasing,
    )


def render_page(comparison: Comparison) -> str:
    """Return the comparison as one HTML document, the same text for the same comparison."""
    css = "\n".join(LOADER.get_source(PAGES, name)[0] for name in ("report.css", "defences.css"))
    return PAGES.get_template("defences.html.j2").render(
        comparison=comparison,
        thresholds=THRESHOLDS,
        headline=headline(comparison),
        caution=caution(comparison),
        drawing=Markup(comparison_figure(comparison, page=True)),
        commands=_commands(comparison),
        starts=starts,
        falls=FALLS_ABOVE,
        css=Markup(css),
        css_hash=csp_hash(css),
        say=phrasing,
    )


def headline(comparison: Comparison) -> str:
    """Return what the table says in one sentence: who is fooled least, how much that is, and at what acceptance."""
    rows = [row for row in comparison.defences if row.at]
    if not rows:
        return "Nothing was tried: no defence was attacked within a budget."
    best = rows[0]
    worst = max(best.at, key=lambda one: (one.fooled.value, one.epsilon))
    within = (
        f"{phrasing.with_bounds(worst.fooled)} of {worst.n} images within {phrasing.radius(worst.norm, worst.epsilon)}"
    )
    doubt = "" if best.doubt is None else f" This is too good: without a budget {best.doubt}."
    accepting = "" if best.threshold != "own" else f", accepting {phrasing.with_bounds(best.accepted)} of benign images"
    if len(rows) == 1:
        return f"{best.name}: accepted and wrong on {within}{accepting}.{doubt}"
    return f"First of {len(rows)} defences is {best.name}: accepted and wrong on {within} at most{accepting}.{doubt}"


def caution(comparison: Comparison) -> str:
    """Return over whom chance may explain the lead of the first row, in one sentence; empty where over nobody."""
    rows = [row for row in comparison.defences if row.at]
    close = [row.name for row in rows[1:] if _barely_behind(row, rows[0])]
    if not close:
        return ""
    names = " and ".join(filter(None, [", ".join(close[:-1]), close[-1]]))
    return f"Chance may explain its lead over {names}."


def _barely_behind(one: Defence, best: Defence) -> bool:
    """Return whether a row is fooled more often over the budgets that both have, and the intervals touch at each."""
    pairs = [(found.fooled, same.fooled) for found in one.at if (same := best.within(found.norm, found.epsilon))]
    return sum(behind.value - ahead.value for behind, ahead in pairs) > 0 and all(
        behind.low <= ahead.high for behind, ahead in pairs
    )


def starts(one: AtBudget) -> str:
    """Return how many images were attacked from how many starts, as ``200 images, 5 starts``."""
    number = one.restarts or 1
    return f"{one.n} image{'s' * (one.n != 1)}, {number} start{'s' * (number != 1)}"


def _share(interval: Interval | None) -> str:
    if interval is None:
        return "undefined"
    return f"{phrasing.percent(interval.value)} ({phrasing.bounds(interval)})"


def _commands(comparison: Comparison) -> list[str]:
    rows: tuple[Defence, ...] = comparison.defences
    found = [command for row in rows for file in row.files for command in file.commands]
    return [*dict.fromkeys(found), *filter(None, [comparison.command])]
