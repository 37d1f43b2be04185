"""How slowly a body may arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pace import Pace, Patience

WAITS = st.lists(st.tuples(st.integers(1, 100_000), st.floats(0, 29)), max_size=50)


def test_a_byte_now_and_then_uses_up_the_patience() -> None:
    patience = Patience(Pace(30, 1000))
    waited = 0
    while patience.left_s > 1:
        assert patience.arrived(1, 1)
        waited += 1
    assert waited == 30
    assert not patience.arrived(1, 2)
    assert "1,000 bytes a second" in patience.over()


@pytest.mark.parametrize("bytes_per_s", [0, 1000])
def test_seconds_without_a_byte_are_only_used_up(bytes_per_s: int) -> None:
    patience = Patience(Pace(30, bytes_per_s))
    assert patience.arrived(0, 29)
    assert not patience.arrived(0, 1)


def test_a_pause_is_made_up_for_and_no_more_than_that() -> None:
    patience = Patience(Pace(30, 1000))
    patience.arrived(5_000, 29)
    assert patience.left_s == 6
    patience.arrived(10_000_000, 1)
    assert patience.left_s == 30
    assert patience.over() == "Nothing arrived for 30 s."


@given(WAITS)
def test_who_keeps_the_pace_is_never_ended(pieces: list[tuple[int, float]]) -> None:
    patience = Patience(Pace(30, 1000))
    for nbytes, _ in pieces:
        patience.arrived(nbytes, nbytes / 1000 if nbytes < 30_000 else 29)
        assert patience.left_s == pytest.approx(30)


@given(WAITS)
def test_without_a_pace_only_silence_counts(pieces: list[tuple[int, float]]) -> None:
    patience = Patience(Pace(30, 0))
    for nbytes, waited in pieces:
        patience.arrived(nbytes, waited)
        assert patience.left_s == 30
