"""A part of the outcome: a table, a page of claims or a figure, what it needs, and what it writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from cmt_export.reproduction.cell import Cell
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import Unit


class Section(ABC):
    """One table, page or figure.

    Attributes:
        name: What ``--only`` takes.
    """

    name: ClassVar[str]

    @abstractmethod
    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the units that it shows."""

    @abstractmethod
    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return what to write, by file name below the output folder, whatever is known so far."""

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return its figures, for machines."""
        return ()
