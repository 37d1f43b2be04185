"""A stored record is what was written, or it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.records import FileMark, JobEnd, JobSpec, JobStatus, ProblemItem, Record, utcnow


class Empty(Record):
    """A record that may have nothing to say."""

    word: str | None = None


words = st.text(max_size=30)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(Empty, word=st.none() | words),
    st.builds(FileMark, size=st.integers(), sha256=st.text("0123456789abcdef", min_size=64, max_size=64)),
    st.builds(ProblemItem, path=words, message=words),
    st.builds(
        JobEnd,
        status=st.sampled_from(JobStatus),
        finished_at=st.just(utcnow()),
        warnings=st.lists(words, max_size=3).map(tuple),
        result=st.none() | st.dictionaries(words, words, max_size=3),
    ),
)


@given(records)
def test_it_is_read_as_it_was_written(record: Record) -> None:
    data = record.to_json()
    assert type(record).from_json(data) == record
    assert json.loads(data)["checksum"]  # plain JSON for everybody else


@given(records, st.data())
@example(Empty(word='","checksum":"' + "0" * 64), None)
def test_no_byte_of_it_can_turn(record: Record, data: Any) -> None:
    """Whichever turns, it is refused, or, in the name of the checksum, nothing is lost."""
    written = bytearray(record.to_json())
    places = range(len(written)) if data is None else [data.draw(st.integers(0, len(written) - 1))]
    for at in places:
        turned = bytearray(written)
        turned[at] ^= 1 if data is None else data.draw(st.integers(1, 255))
        try:
            found = type(record).from_json(bytes(turned))
        except ValueError:
            continue
        assert found == record


@given(records, st.integers(1, 200))
def test_nothing_of_it_can_be_cut_off(record: Record, length: int) -> None:
    written = record.to_json()
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is said
        type(record).from_json(written[: -min(length, len(written))])


def test_those_of_earlier_versions_are_read() -> None:
    """They have no checksum, and later versions may add keys."""
    spec = JobSpec(id="job_1", kind="tune", created_at=utcnow())
    plain = json.loads(spec.to_json())
    del plain["checksum"]
    assert JobSpec.from_json(json.dumps(plain).encode()) == spec
    assert JobSpec.from_json(json.dumps(plain | {"of a later version": 1}).encode()) == spec
