"""What an evaluation of a pool found: the same attacked images, judged by every member.

Each member's part is a whole results file of that member, so that every figure of one guard can be had of it. What the
draw of a member makes of them together is counted by `calibration.comparing.pointwise`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from calibration.records import from_json
from calibration.results.document import Results, read_document
from calibration.results.resuming import key_of
from runtime.atomic import atomic_output
from runtime.errors import UsageError

POOL_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class PoolResults:
    """One evaluation of a pool.

    Attributes:
        schema: Version of this format.
        members: What every member made of the images, in the order of the pool.

    Raises:
        UsageError: The schema is another one, there are fewer than two members, or they were not attacked alike.
    """

    schema: int = POOL_SCHEMA
    members: tuple[Results, ...]

    def __post_init__(self) -> None:
        """Check that the members belong together."""
        if self.schema != POOL_SCHEMA:
            raise UsageError(
                f"results of a pool: expected schema {POOL_SCHEMA}, got {self.schema}; use a matching version of cmt"
            )
        if len(self.members) < 2:
            raise UsageError(f"results of a pool: expected two or more members, got {len(self.members)}")
        first = self.members[0]
        for one in self.members[1:]:
            if one.data != first.data or sorted(map(key_of, one.cells)) != sorted(map(key_of, first.cells)):
                raise UsageError("results of a pool: expected the same attacks on the same images in every member")

    @property
    def complete(self) -> bool:
        """Whether every planned attack is here."""
        return all(one.complete for one in self.members)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a results file, whole or not at all.

        Raises:
            CmtError: It cannot be written.
        """
        with atomic_output(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), allow_nan=False, indent=1) + "\n", encoding="utf-8")


def load_results(path: str | os.PathLike[str]) -> Results | PoolResults:
    """Read a results file of one guard or of a pool.

    Raises:
        UsageError: It is missing, or no results file.
    """
    document: Any = read_document(path)
    try:
        if isinstance(document, dict) and "members" in document:
            pool = from_json(PoolResults, document, "results of a pool")
            for member in pool.members:
                member.check_figures()
            return pool
        return Results.from_json(document)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
