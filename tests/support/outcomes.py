"""What a call came to when both an answer and one kind of error are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def outcome(call: Callable[[], T], error: type[E]) -> T | E:
    """The call's answer, or the error it raised; any other kind of error is a failure of the test."""
    try:
        return call()
    except error as raised:
        return raised
