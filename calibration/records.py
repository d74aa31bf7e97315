"""Frozen dataclasses from JSON: every field present, none unknown, each of its declared type."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from runtime.errors import UsageError

Record = TypeVar("Record")

_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN: Mapping[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("text", (str,)),
}


def from_json(kind: type[Record], value: object, where: str) -> Record:
    """Build a record from parsed JSON.

    Args:
        kind: A dataclass or named tuple; its fields are plain values, records, ``tuple[X, ...]``, mappings or optional.
        value: What `json.loads` returned.
        where: What messages call it.

    Raises:
        UsageError: A field is missing, unknown or of another type, or the record refuses its value.
    """
    return cast(Record, _read(kind, value, where))


def _read(kind: Any, value: object, where: str) -> Any:
    if kind is Any:
        return value
    if get_origin(kind) in (Union, types.UnionType):
        inner = next(option for option in get_args(kind) if option is not type(None))
        return None if value is None else _read(inner, value, where)
    if kind in _PLAIN:
        return _plain(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if get_origin(kind) is tuple:
        items = _expect(value, list, "a list", where)
        return tuple(_read(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(items))
    if isinstance(kind, type) and issubclass(kind, tuple):
        return _named_tuple(kind, value, where)
    return _expect(value, dict, "an object", where)


def _plain(kind: type, value: object, where: str) -> Any:
    words, accepted = _PLAIN[kind]
    found = _expect(value, accepted, words, where)
    if (isinstance(found, bool) and kind is not bool) or (kind is float and not _fits_float(found)):
        raise _error(where, words, value)
    if isinstance(found, str) and _SURROGATE.search(found):
        raise _error(where, "text without lone surrogates", ascii(found))
    return kind(found)


def _fits_float(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # JSON has whole numbers beyond the largest float
        return False


def _dataclass(kind: Any, value: object, where: str) -> Any:
    found = _expect(value, dict, "an object", where)
    hints = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    if found.keys() != names:
        missing, unknown = sorted(names - found.keys()), sorted(found.keys() - names)
        raise _error(where, f"the keys {', '.join(sorted(names))}", f"missing {missing}, unknown {unknown}")
    return kind(**{name: _read(hints[name], found[name], f"{where}.{name}") for name in names})


def _named_tuple(kind: Any, value: object, where: str) -> Any:
    hints = get_type_hints(kind)
    items: Sequence[Any] = _expect(value, list, "a list", where)
    if len(items) != len(hints):
        raise _error(where, f"{len(hints)} values", value)
    named = zip(hints.items(), items, strict=True)
    return kind(*(_read(hint, item, f"{where}.{name}") for (name, hint), item in named))


def _expect(value: object, accepted: type | tuple[type, ...], words: str, where: str) -> Any:
    if not isinstance(value, accepted):
        raise _error(where, words, value)
    return value


def _error(where: str, words: str, got: object) -> UsageError:
    return UsageError(f"{where}: expected {words}, got {got!a:.120}; write it again with `cmt attack`")
