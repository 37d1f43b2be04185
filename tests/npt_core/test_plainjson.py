from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.plainjson import LEAST_JUDGED, read_plain

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_what_json_writes_is_read_back(value):
    text = json.dumps(value)
    assert read_plain(text) == read_plain(text.encode()) == read_plain(b"\xef\xbb\xbf" + text.encode()) == value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "at character 1"),
        (b"", "at character 0"),
        (b"\xff", "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b"1" * 10_000, "too many digits"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(data, said):
    with pytest.raises(ValueError, match=said):
        read_plain(data)


@pytest.mark.parametrize("value", ["[],", "{},", "0,", '"",', '{"a":0},'])
@pytest.mark.parametrize("kind", [str, str.encode])
def test_a_document_of_more_values_than_accepted_never_becomes_objects(value, kind, monkeypatch):
    most = 100_000
    text = "[" + value * most + "0]"
    text += " " * max(0, LEAST_JUDGED + 1 - len(text))
    monkeypatch.setattr(json, "loads", pytest.fail)
    with pytest.raises(ValueError, match="over 99,999 values"):
        read_plain(kind(text), max_values=most - 1)


def test_long_texts_are_no_values():
    text = "x" * (2 * LEAST_JUDGED)
    assert read_plain(json.dumps([text] * 3), max_values=10) == [text] * 3


@given(values)
def test_no_document_has_more_values_than_are_counted(value):
    def count(one):
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return 1 + sum(map(count, inner))

    text = json.dumps(value)
    counted = sum(map(text.count, (",", "[", "{"))) + 1
    assert count(value) <= 2 * counted  # a list of one has a bracket and a value
