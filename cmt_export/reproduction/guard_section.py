"""``guard.onnx``: the file that every table is about, ready to be embedded."""

from __future__ import annotations

from collections.abc import Mapping

from cmt_export.reproduction.found import Found
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import Unit


class GuardSection(Section):
    """The guard as it was exported and attacked, its threshold the paper's rule."""

    name = "guard"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the export of the guard."""
        return (sets.lineup.guard,)

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the file; nothing before it is exported."""
        guard = found.lineup.guard
        if found.store.find(guard) is None:
            return {}
        return {"guard.onnx": (found.store.folder(guard) / "guard.onnx").read_bytes()}
