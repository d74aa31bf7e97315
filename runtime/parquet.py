"""The one place that imports pyarrow's parquet module."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from runtime.errors import UsageError


def pyarrow_parquet() -> Any:
    """Return ``pyarrow.parquet``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            "expected pyarrow for .parquet, got none; install cmt[parquet] or use .csv or .jsonl"
        ) from None
