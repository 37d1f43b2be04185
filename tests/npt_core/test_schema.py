"""Settings that validate themselves and describe themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.errors import ConfigError, Fault
from npt_core.schema import Settings, setting


class Shape(StrEnum):
    ROUND = "round"
    SQUARE = "square"


@dataclass(frozen=True)
class Example(Settings):
    """An example.

    With a second paragraph.
    """

    count: int = setting(3, ge=1, le=9, doc="How many.")
    rate: float = setting(0.5, gt=0, lt=1, doc="How fast.")
    flag: bool = setting(False, doc="Whether.")
    word: str = setting("a", max_length=5, doc="What.")
    maybe: int | None = setting(None, ge=2, doc="Perhaps.")
    place: Literal["end", "front"] = setting("end", doc="Where.")
    shape: Shape = setting(Shape.ROUND, doc="Form.")
    names: Mapping[str, str] = setting({}, doc="Names.")
    extra: Mapping[str, Any] = setting({}, doc="More.")
    words: tuple[str, ...] = setting((), doc="Words.")

    def conflicts(self, mistyped: frozenset[str]) -> Iterable[Fault]:
        if not mistyped & {"count", "maybe"} and self.maybe is not None and self.maybe < self.count:
            yield Fault("maybe", "is below count")


def test_round_trip_and_coercion_that_loses_nothing() -> None:
    made = Example.from_dict({"rate": 0.25, "words": ["x", "y"], "shape": "square", "maybe": 5, "names": {"a": "b"}})
    assert made.words == ("x", "y")
    assert made.shape is Shape.SQUARE
    assert Example.from_dict(made.to_dict()) == made
    assert made.to_dict()["words"] == ["x", "y"]


@pytest.mark.parametrize(
    ("data", "path", "says"),
    [
        ({"count": 0}, "count", "at least 1"),
        ({"count": 10}, "count", "at most 9"),
        ({"count": 2.0}, "count", "a whole number"),
        ({"count": True}, "count", "a whole number"),
        ({"count": "2"}, "count", "a whole number"),
        ({"rate": 0}, "rate", "more than 0"),
        ({"rate": 1}, "rate", "less than 1"),
        ({"rate": float("nan")}, "rate", "finite"),
        ({"rate": True}, "rate", "a number"),
        ({"flag": 1}, "flag", "true or false"),
        ({"word": "abcdef"}, "word", "at most 5"),
        ({"maybe": 1, "count": 1}, "maybe", "at least 2"),
        ({"maybe": "x"}, "maybe", "a whole number or null"),
        ({"maybe": 2}, "maybe", "below count"),
        ({"place": "middle"}, "place", "one of 'end', 'front'"),
        ({"shape": "flat"}, "shape", "one of 'round', 'square'"),
        ({"names": {"a": 1}}, "names", "an object"),
        ({"names": []}, "names", "an object"),
        ({"words": "abc"}, "words", "a list"),
        ({"other": 1}, "other", "no such setting"),
    ],
)
def test_each_fault_is_named(data: dict[str, Any], path: str, says: str) -> None:
    with pytest.raises(ConfigError, match="Example") as caught:
        Example.from_dict(data)
    assert [fault.path for fault in caught.value.faults] == [path]
    assert says in caught.value.faults[0].message
    assert says in caught.value.message


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Example.from_dict({"count": "x", "rate": 2, "word": "too long", "nope": 1, "flag": None})
    assert {fault.path for fault in caught.value.faults} == {"count", "rate", "word", "nope", "flag"}


def test_construction_checks_too() -> None:
    with pytest.raises(ConfigError):
        Example(count=0)


@pytest.mark.parametrize("data", [[], "x", 3, None])
def test_only_objects_are_read(data: Any) -> None:
    with pytest.raises(ConfigError, match="not an object"):
        Example.from_dict(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*Example.__dataclass_fields__, "other"]), json_values, max_size=5))
def test_any_json_is_read_or_refused_with_faults(data: dict[str, Any]) -> None:
    try:
        made = Example.from_dict(data)
    except ConfigError as error:
        faults: object = error.faults
    else:
        faults = Example.from_dict(made.to_dict()) == made
    assert faults


def test_json_schema_says_what_from_dict_accepts() -> None:
    schema = Example.json_schema()
    assert schema["description"] == "An example."
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["count"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
        "description": "How many.",
        "default": 3,
    }
    assert properties["rate"]["exclusiveMinimum"] == 0
    assert properties["maybe"]["anyOf"] == [{"type": "integer", "minimum": 2}, {"type": "null"}]
    assert properties["place"]["enum"] == ["end", "front"]
    assert properties["shape"] == {
        "type": "string",
        "enum": ["round", "square"],
        "description": "Form.",
        "default": "round",
    }
    assert properties["words"]["items"] == {"type": "string"}
    assert properties["names"]["additionalProperties"] == {"type": "string"}
    assert properties["extra"]["additionalProperties"] is True
