"""The Accept header: what browsers, curl and strangers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.negotiation import preferred

OFFERS = ("application/json", "text/html")
JSON, HTML = OFFERS


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),  # curl
        ("application/json", JSON),
        ("text/html", HTML),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", HTML),  # Firefox
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),  # Safari
        ("application/json, text/plain, */*", JSON),  # axios
        ("application/json;q=0.5, text/html;q=0.6", HTML),
        ("application/json;q=0.6, text/html;q=0.5", JSON),
        ("text/html;q=0", JSON),
        ("text/html;q=0, */*", JSON),
        ("application/json;q=0, */*;q=0.1", HTML),
        ("text/*", HTML),
        ("text/*;q=0.5, application/*;q=0.4", HTML),
        ("text/html;q=0.2, text/*;q=0.9, application/json;q=0.5", JSON),  # the more specific range decides
        ("TEXT/HTML ; Q=1.0", HTML),
        ("text/html;level=1;q=0.3, application/json;q=0.2", HTML),
        ("image/png", JSON),
        ("text/html;q=2", JSON),
        ("text/html;q=-1, application/json;q=0.1", JSON),
        ("text/html;q=", JSON),
        ("*/html", JSON),
        (";;;,,,text/html", HTML),
        ("," * 100_000 + "text/html", JSON),
    ],
)
def test_what_is_sent(accept: str | None, chosen: str) -> None:
    assert preferred(accept, OFFERS) == chosen


@given(st.text(max_size=200))
def test_any_header_gives_one_of_the_offers(accept: str) -> None:
    assert preferred(accept, OFFERS) in OFFERS


weights = st.integers(0, 1000)


@given(weights, weights, st.booleans())
def test_the_higher_weight_wins_in_any_order(one: int, two: int, swapped: bool) -> None:
    parts = [f"application/json;q={one / 1000:.3f}", f"text/html; q={two / 1000:.3f}"]
    header = ", ".join(reversed(parts) if swapped else parts)
    assert preferred(header, OFFERS) == (HTML if two > one else JSON)
