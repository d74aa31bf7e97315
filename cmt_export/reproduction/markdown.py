"""Markdown of tables: figures with their intervals beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence

from calibration.results.phrasing import bounds, percent
from cmt_export.reproduction.cell import MEANINGS, Cell, nearest

NOT_RUN = "not run yet"
_DASH = "\N{EN DASH}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |\n" for row in lines)


def ours(cell: Cell) -> str:
    """Return what came out: share, interval and n."""
    if cell.found is None:
        return cell.verdict
    interval, digits = cell.found.interval, _digits(cell)
    shown = f"**{percent(interval.value, digits=digits)}** ({bounds(interval, digits=digits)}"
    return f"{shown}, n {cell.found.whole:,})"


def beside(cell: Cell) -> str:
    """Return published and ours with the verdict."""
    before = "" if cell.published is None else f"{percent(cell.published, digits=_digits(cell))} → "
    verdict = f", {cell.verdict}" if cell.verdict in ("beats", "matches", "does not reproduce") else ""
    return f"{before}{ours(cell)}{verdict}{' *' if cell.caveat else ''}"


def legend(cells: Sequence[Cell]) -> str:
    """Return what the verdicts in some cells say, and every caveat."""
    used = [verdict for verdict in MEANINGS if any(cell.verdict == verdict for cell in cells)]
    lines = ["Published → ours (95 % interval, number of images), verdict.", ""]
    lines += [f"- {verdict}: {MEANINGS[verdict]}" for verdict in used]
    caveats = dict.fromkeys(f"{' '.join(cell.name)}: {cell.caveat}" for cell in cells if cell.caveat)
    return "\n".join([*lines, *([""] if caveats else []), *(f"\\* {text}  " for text in caveats)]) + "\n"


def failures(cells: Sequence[Cell]) -> str:
    """Return every headline cell that does not reproduce, with the nearest other reading or option."""
    lines = []
    for cell in cells:
        if cell.option or cell.verdict != "does not reproduce" or cell.found is None or cell.published is None:
            continue
        others = [other for other in cells if other is not cell and same_cell(cell, other)]
        best, name = nearest(cell, others), ", ".join(cell.name)
        line = f"- {name}: published {percent(cell.published)}, here {percent(cell.found.interval.value)}; "
        if best is None or best.found is None:
            lines.append(f"{line}no other reading was run")
        elif best is cell:
            lines.append(f"{line}no other reading or option that was run comes as near")
        else:
            how = "reproduces with" if best.reproduces else "none that was run reproduces it, nearest is"
            lines.append(f"{line}{how} {described(best)}: {percent(best.found.interval.value)}")
    unknown = any(cell.found is None and cell.published is not None and not cell.option for cell in cells)
    return "".join(f"{line}\n" for line in lines) or ("None so far.\n" if unknown else "None.\n")


def _digits(cell: Cell) -> int:
    """Return as many decimals of a percentage as the paper gives, one at least."""
    paper = 0.0 if cell.published is None else 1000 * cell.published
    return 1 if abs(paper - round(paper)) < 1e-6 else 2


def described(cell: Cell) -> str:
    """Return the reading and option of a cell."""
    return ", ".join([f"reading {cell.name[-1]}", *([cell.option] if cell.option else [])])


def same_cell(one: Cell, other: Cell) -> bool:
    """Return whether two cells are readings or options of the same published one: all of the name but its end."""
    return one.name[:-1] == other.name[:-1]
