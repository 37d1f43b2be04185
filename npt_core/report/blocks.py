"""What a page is made of: sections of blocks. They hold plain text; the template escapes it and does the rest."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup

MAX_IMAGE_CHARS = 64 * 1024
_URI = re.compile(r"data:image/(png|webp|jpeg);base64,([A-Za-z0-9+/]+={0,2})")
_MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF", "jpeg": b"\xff\xd8\xff"}


def image_uri(value: object) -> str | None:
    """Return a data URI of a small PNG, WebP or JPEG, None for anything else.

    The type must be that of the bytes, so that nothing but a picture reaches the page.
    """
    if not isinstance(value, str) or len(value) > MAX_IMAGE_CHARS:
        return None
    found = _URI.fullmatch(value)
    if found is None:
        return None
    try:
        data = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return None
    return value if data.startswith(_MAGIC[found[1]]) else None


@dataclass(frozen=True)
class Text:
    """A paragraph; `quiet` for what explains."""

    kind: ClassVar[str] = "text"
    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Notice:
    """A sentence that stands out.

    Attributes:
        level: `good`, `warn`, `bad` or `info`.
        title: A few words.
        text: The rest.
    """

    kind: ClassVar[str] = "notice"
    level: str
    title: str
    text: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences, with or without a title."""

    kind: ClassVar[str] = "bullets"
    entries: Sequence[str]
    title: str = ""


@dataclass(frozen=True)
class Numbers:
    """A few numbers to be seen first.

    Attributes:
        entries: (number, what it is, what goes with it, class of its colour or nothing).
    """

    kind: ClassVar[str] = "numbers"
    entries: Sequence[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first cell of a row is its name.

    Attributes:
        caption: What is in it.
        columns: Names.
        rows: As many cells each as there are columns.
        numbers: Columns set to the right, by position.
        more: Said below it, for instance how many rows are left out.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    more: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing and what to see in it."""

    kind: ClassVar[str] = "figure"
    title: str
    drawing: Markup
    caption: str = ""


@dataclass(frozen=True)
class Columns:
    """Blocks beside each other where there is room; `wide` ones are about half a page."""

    kind: ClassVar[str] = "columns"
    blocks: Sequence[Block]
    wide: bool = False


@dataclass(frozen=True)
class Picture:
    """A thumbnail.

    Attributes:
        source: A URI that `image_uri` let through, or None.
        words: What it is, for those who cannot see it.
        lines: Below it; the first stands out.
    """

    source: str | None
    words: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Pictures:
    """Thumbnails under a title."""

    kind: ClassVar[str] = "pictures"
    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when they are asked for."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: Sequence[Block]


Block = Text | Notice | Bullets | Numbers | Facts | Table | Figure | Columns | Pictures | Code | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page with a title and an anchor."""

    anchor: str
    title: str
    blocks: Sequence[Block] = field(default=())


def worst_rows(rows: Sequence[Sequence[str]], limit: int, what: str) -> tuple[Sequence[Sequence[str]], str]:
    """Return the first rows of a table, and what is said of those that are left out.

    Args:
        rows: Worst first.
        limit: How many are shown.
        what: Name of the things in it, many of them.
    """
    left = len(rows) - limit
    return rows[:limit], f"{left:,} more {what} are in the JSON." if left > 0 else ""
