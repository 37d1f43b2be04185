"""JSON that a stranger sent: judged before it becomes objects, which take up to thirty times the room of its text."""

from __future__ import annotations

import json
from typing import Any

MAX_VALUES = 4_000_000
"""Values in one document; as objects they take 300 MB at most."""

LEAST_JUDGED = 1024 * 1024
"""Bytes below which nothing is counted."""


def read_plain(data: bytes | str, *, max_values: int = MAX_VALUES) -> Any:
    """Read a document.

    `[{},{},…]` is three bytes and a comma for an object of 64 bytes and its place in the list: what 64 MB of it would
    take is known from its commas and brackets, without reading it.

    Args:
        data: Text, or its bytes as UTF-8, with or without a byte order mark.
        max_values: Most values in it, lists and objects included; those inside texts count where they look like some.

    Raises:
        ValueError: No JSON, not UTF-8, nested too deep, or too many values; it says which, in words for its sender.
    """
    if len(data) > LEAST_JUDGED and _most_values(data) > max_values:
        raise ValueError(f"it holds over {max_values:,} values")
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos:,}") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except ValueError as error:
        raise ValueError("a number in it has too many digits") from error


def _most_values(data: bytes | str) -> int:
    if isinstance(data, str):
        return sum(map(data.count, (",", "[", "{")))
    return sum(map(data.count, (b",", b"[", b"{")))
