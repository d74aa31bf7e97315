"""Frozen records for what every start of a guard loads.

A dataclass or a NamedTuple compiles its methods when it is defined; twelve of them were half of what importing the
guard takes. These share their methods, and type checkers read them as frozen, keyword-only dataclasses.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """Base of records: a subclass declares its fields as a dataclass does, and may check them in `__post_init__`.

    Raises:
        TypeError: A field without default is missing, or a name is no field.
        AttributeError: A field is set or deleted later.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        """Take the fields of a subclass from its annotations, after those it inherits."""
        cls._fields = tuple(dict.fromkeys((*cls._fields, *cls.__annotations__)))
        cls._names = frozenset(cls._fields)

    def __init__(self, **values: Any) -> None:
        """Set every field, then check them."""
        if values.keys() != self._names:
            values = self._completed(values)
        vars(self).update(values)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields; nothing to check here."""

    @classmethod
    def _completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        defaults = {name: getattr(cls, name) for name in cls._fields if hasattr(cls, name)}
        completed = defaults | values
        if completed.keys() != cls._names:
            raise TypeError(
                f"{cls.__name__}: expected the fields {', '.join(cls._fields)}, got {', '.join(values) or 'none'}"
            )
        return completed

    def _asdict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self._fields}

    def _replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked anew."""
        return type(self)(**(vars(self) | changes))

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: records are frozen."""
        raise AttributeError(f"cannot assign to field {name!r} of {type(self).__name__}; make a new record")

    def __delattr__(self, name: str) -> None:
        """Refuse: records are frozen."""
        raise AttributeError(f"cannot delete field {name!r} of {type(self).__name__}; make a new record")

    def __eq__(self, other: object) -> bool:
        """Compare type and fields."""
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        """Hash the fields, all of which must be hashable."""
        return hash(tuple(self._asdict().values()))

    def __repr__(self) -> str:
        """Return the fields as they were given."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"
