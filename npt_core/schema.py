"""Frozen dataclasses that validate themselves, read plain mappings and describe themselves as JSON Schema.

One mechanism for every setting of the core: the tune config, each method's config, each regulariser's config. A field
is declared with `setting(...)`; its bounds are checked when the object is built, and every fault is reported at once.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, Self, Union, get_args, get_origin

from npt_core.errors import ConfigError, Fault

_KEY = "npt_core"


@dataclass(frozen=True)
class Bounds:
    """What a setting may be, beyond its type."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[Any, ...] = ()
    max_length: int | None = None
    doc: str = ""

    def fault(self, value: Any) -> str | None:
        """Say what is wrong with `value`, or None."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                return f"{value} is not a finite number"
            for bound, words, broken in (
                (self.ge, "at least", self.ge is not None and value < self.ge),
                (self.gt, "more than", self.gt is not None and value <= self.gt),
                (self.le, "at most", self.le is not None and value > self.le),
                (self.lt, "less than", self.lt is not None and value >= self.lt),
            ):
                if broken:
                    return f"{value} is out of range; it must be {words} {bound}"
        if self.choices and value not in self.choices:
            return f"{value!r} is not accepted; use one of {', '.join(map(repr, self.choices))}"
        if self.max_length is not None and hasattr(value, "__len__") and len(value) > self.max_length:
            return f"it has {len(value)} entries or characters; at most {self.max_length} are accepted"
        return None


def setting(
    default: Any = MISSING,
    *,
    doc: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[Any] = (),
    max_length: int | None = None,
) -> Any:
    """Declare a field of a `Settings` class with its bounds and its one-sentence explanation."""
    metadata = {_KEY: Bounds(ge=ge, gt=gt, le=le, lt=lt, choices=tuple(choices), max_length=max_length, doc=doc)}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _bounds(item: Field[Any]) -> Bounds:
    bounds = item.metadata.get(_KEY)
    return bounds if isinstance(bounds, Bounds) else Bounds()


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _words(kind: Any) -> str:
    origin = get_origin(kind)
    if kind is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in get_args(kind))
    if origin is Literal:
        accepted = ", ".join(map(repr, get_args(kind)))
        return f"one of {accepted}" if len(get_args(kind)) > 1 else accepted
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "one of " + ", ".join(repr(member.value) for member in kind)
    if origin is tuple:
        return f"a list, each entry {_words(get_args(kind)[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return "an object"
    return _NAMES.get(kind, str(kind))


class _WrongType(Exception):
    pass


def _coerce(kind: Any, value: Any) -> Any:  # noqa: PLR0911 - one line for each kind of type
    """Return `value` as `kind`, allowing only what loses nothing (an int for a float, a list for a tuple)."""
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        for part in get_args(kind):
            try:
                return _coerce(part, value)
            except _WrongType:
                continue
        raise _WrongType
    if kind is type(None):
        if value is None:
            return None
    elif origin is Literal:
        if value in get_args(kind) and not isinstance(value, bool):
            return value
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        if isinstance(value, str) and value in {member.value for member in kind}:
            return kind(value)
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_coerce(get_args(kind)[0], entry) for entry in value)
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _coerce(get_args(kind)[1], entry) for key, entry in value.items()}
    elif kind is bool or kind is str:
        if isinstance(value, kind):
            return value
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _WrongType


_SUBJECTS = {"TuneConfig": "The tune config"}
"""What people call settings whose class is called otherwise."""


def config_error(subject: str, faults: Sequence[Fault]) -> ConfigError:
    """Build one error that lists every fault of `subject`."""
    listed = "; ".join(f"{fault.path}: {fault.message.rstrip('.')}" for fault in faults)
    return ConfigError(f"{_SUBJECTS.get(subject, subject)} cannot be used: {listed}.", faults)


@dataclass(frozen=True)
class Settings:
    """Base of every config: validated at construction, read from and written to plain mappings."""

    def __post_init__(self) -> None:
        faults = []
        mistyped: set[str] = set()
        for item in fields(self):
            value = getattr(self, item.name)
            kind = _hints(type(self))[item.name]
            try:
                value = _coerce(kind, value)
            except _WrongType:
                faults.append(Fault(item.name, f"{value!r} is not accepted; it must be {_words(kind)}"))
                mistyped.add(item.name)
                continue
            object.__setattr__(self, item.name, value)
            fault = _bounds(item).fault(value)
            if fault:
                faults.append(Fault(item.name, fault))
        faults.extend(self.conflicts(frozenset(mistyped)))
        if faults:
            raise config_error(type(self).__name__, faults)

    def conflicts(self, mistyped: frozenset[str]) -> Iterable[Fault]:
        """Faults beyond types and bounds; override where there are any.

        Args:
            mistyped: Fields of a wrong type, reported already; look at none of them.
        """
        return ()

    @classmethod
    def unknown_keys(cls, data: Mapping[str, Any]) -> list[Fault]:
        """Return a fault for every key that is no setting."""
        known = [item.name for item in fields(cls)]
        return [
            Fault(str(key), f"there is no such setting; accepted: {', '.join(known) or 'none'}")
            for key in data
            if key not in known
        ]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a plain mapping.

        Raises:
            ConfigError: Unknown keys, wrong types and broken bounds, all of them at once.
        """
        if not isinstance(data, Mapping):
            raise config_error(cls.__name__, [Fault("", f"{data!r} is not an object")])
        faults = cls.unknown_keys(data)
        known = {item.name for item in fields(cls)}
        try:
            made = cls(**{key: value for key, value in data.items() if key in known})
        except ConfigError as error:
            if not faults:
                raise
            raise config_error(cls.__name__, [*faults, *error.faults]) from None
        if faults:
            raise config_error(cls.__name__, faults)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return every setting as JSON-able values."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return a JSON Schema (2020-12) of the mapping that `from_dict` accepts."""
        hints = _hints(cls)
        return {
            "type": "object",
            "title": cls.__name__,
            "description": (cls.__doc__ or "").split("\n\n")[0].strip(),
            "properties": {item.name: _field_schema(item, hints[item.name]) for item in fields(cls)},
            "additionalProperties": False,
        }


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def _type_schema(kind: Any) -> dict[str, Any]:
    origin = get_origin(kind)
    if kind is Any:
        return {}
    if origin in (Union, types.UnionType):
        parts = [_type_schema(part) for part in get_args(kind)]
        return {"anyOf": parts}
    if kind is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"type": "string", "enum": [member.value for member in kind]}
    if origin is tuple:
        return {"type": "array", "items": _type_schema(get_args(kind)[0])}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _type_schema(get_args(kind)[1]) or True}
    return {"type": {int: "integer", float: "number", bool: "boolean", str: "string"}[kind]}


def _field_schema(item: Field[Any], kind: Any) -> dict[str, Any]:
    bounds = _bounds(item)
    schema = _type_schema(kind)
    limits = {"minimum": bounds.ge, "exclusiveMinimum": bounds.gt, "maximum": bounds.le, "exclusiveMaximum": bounds.lt}
    target = schema
    if "anyOf" in schema:  # the bounds belong to the branch that is not null
        target = next((part for part in schema["anyOf"] if part.get("type") != "null"), schema)
    target.update({key: value for key, value in limits.items() if value is not None})
    if bounds.choices:
        target["enum"] = list(bounds.choices)
    if bounds.doc:
        schema["description"] = bounds.doc
    if item.default is not MISSING:
        schema["default"] = _plain(item.default)
    elif item.default_factory is not MISSING:
        schema["default"] = _plain(item.default_factory())
    return schema
