"""Which of several content types an answer has: the `Accept` header, read as RFC 9110 says (12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import HTMLResponse

from npt_core.report.page import content_policy

MAX_CHARS = 8_192
"""A longer header is read as far as this."""

Format = Annotated[Literal["json", "html"] | None, Query(description="In place of the Accept header, for links.")]
VARY = {"Vary": "Accept"}
PAGE: dict[str, Any] = {"content": {"text/html": {"schema": {"type": "string"}, "example": "<!doctype html>…"}}}
"""What OpenAPI says of an answer that is a page as well as data."""

_FORMATS = {"application/json": "json", "text/html": "html"}
_RANGE = re.compile(r"([\w!#$%&'*+.^`|~-]+)/([\w!#$%&'*+.^`|~-]+)", re.ASCII)
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def preferred(accept: str | None, offers: Sequence[str]) -> str:
    """Choose what is sent.

    Args:
        accept: The header, None where there is none.
        offers: Content types in the server's own order of preference, in lower case.

    Returns:
        The offer with the highest weight; of equal ones the first. The first as well where none is accepted: an answer
        of another type helps more than a refusal.
    """
    ranges = _ranges((accept or "")[:MAX_CHARS])
    if not ranges:
        return offers[0]
    return max(offers, key=lambda offer: _weight_of(offer, ranges))  # max keeps the first of equals


def wants_page(request: Request, format: str | None) -> bool:
    """Whether a request asks for HTML and not for JSON; `format` stands in for the header."""
    return (format or _FORMATS[preferred(request.headers.get("accept"), tuple(_FORMATS))]) == "html"


def as_page(html: str) -> HTMLResponse:
    """A page of `npt_core.report` as an answer: it may load nothing, run nothing and be framed by nobody."""
    policy = f"{content_policy()}; frame-ancestors 'none'"
    return HTMLResponse(html, headers={**VARY, "Content-Security-Policy": policy})


def _ranges(accept: str) -> list[tuple[str, str, float]]:
    """Return type, subtype and weight of each media range; what cannot be read is passed over."""
    found = []
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        match = _RANGE.fullmatch(media.lower())
        if match is None or (match[1] == "*" and match[2] != "*"):
            continue
        weight: float | None = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                value = value.strip()
                weight = float(value) if _WEIGHT.fullmatch(value) else None
        if weight is not None:
            found.append((match[1], match[2], weight))
    return found


def _weight_of(offer: str, ranges: Sequence[tuple[str, str, float]]) -> float:
    """Return the weight the most specific matching range gives, 0 where none matches."""
    kind, _, subtype = offer.partition("/")
    best, weight = -1, 0.0
    for one, sub, given in ranges:
        if one not in (kind, "*") or sub not in (subtype, "*"):
            continue
        specific = (one != "*") + (sub != "*")
        if specific > best:
            best, weight = specific, given
    return weight
