"""A model card in Markdown: what a repository or a registry shows beside the file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from calibration.findings import conclude
from calibration.findings.briefing import brief
from calibration.findings.doubts import warnings
from calibration.metrics import Interval
from calibration.results import Results, phrasing
from runtime.atomic import atomic_output


class Verbatim(str):
    """Text for an indented code block, where Markdown interprets nothing."""


def _finalize(value: object) -> str:
    return value if isinstance(value, Verbatim) else escape(str(value))


CARDS = Environment(
    loader=PackageLoader("calibration.report"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
    finalize=_finalize,
)
_SPECIAL = re.compile(r"([\\`*_\[\]<>&|~#!$@])")


def escape(text: str) -> str:
    """Return text that Markdown and the HTML inside it show as it is, on one line and without control characters."""
    visible = "".join(
        " " if sign.isspace() else sign
        for sign in text
        if sign.isspace() or unicodedata.category(sign) not in ("Cc", "Cf", "Cs")
    )
    return _SPECIAL.sub(r"\\\1", visible)


def render_card(results: Results, *, parts: Sequence[Results] = ()) -> str:
    """Return the model card, the same text for the same results.

    Args:
        results: What `calibration.evaluation` found, or `results.joining.join` of several.
        parts: What they were joined of, for the commands to repeat; none for results of one command.
    """
    commands = [Verbatim(one_line(part.command)) for part in parts or (results,)]
    return CARDS.get_template("model_card.md.j2").render(
        results=results,
        model=results.model,
        finding=conclude(results),
        briefing=brief(results),
        warnings=warnings(results),
        commands=commands,
        share=_share,
        say=phrasing,
    )


def write_card(results: Results, path: str | os.PathLike[str], *, parts: Sequence[Results] = ()) -> None:
    """Write the model card, whole or not at all.

    Args:
        results: As for `render_card`.
        path: The Markdown file; an existing one is replaced.
        parts: As for `render_card`.

    Raises:
        CmtError: The file cannot be written.
    """
    with atomic_output(path) as temporary:
        temporary.write_text(render_card(results, parts=parts), encoding="utf-8")


def _share(interval: Interval | None) -> str:
    if interval is None:
        return "undefined"
    return f"{phrasing.percent(interval.value)} ({phrasing.bounds(interval)})"


def one_line(text: str) -> str:
    """Return text on one line, without control characters."""
    signs = ("Cc", "Cf", "Cs")
    spaced = "".join(" " if sign.isspace() else sign for sign in text)
    return "".join(sign for sign in spaced if unicodedata.category(sign) not in signs)
