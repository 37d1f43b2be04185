"""What a path in an archive, and a label, may look like."""

from __future__ import annotations

import unicodedata

MAX_PART_BYTES = 255
MAX_PATH_BYTES = 1024

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_JUNK_PARTS = {"__macosx": "__MACOSX", ".ipynb_checkpoints": ".ipynb_checkpoints"}


def nfc(text: str) -> str:
    """The composed form, so that a name written on macOS equals the one written elsewhere."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def collision_key(path: str) -> str:
    """Two paths with one key cannot both exist on every file system."""
    return nfc(nfc(path).casefold())


def text_fault(text: str) -> str | None:
    """What makes `text` unfit to be shown or compared, or None."""
    if text.isascii() and text.isprintable():
        return None
    for char in text:
        category = unicodedata.category(char)
        if char == "\0":
            return "has a NUL character"
        if category in ("Cc", "Zl", "Zp"):
            return f"has a control character (U+{ord(char):04X})"
        if char in _BIDI:
            return f"has a character that changes the reading direction (U+{ord(char):04X})"
        if category == "Cs":
            return "is not valid Unicode"
    return None


def label_fault(label: str) -> str | None:
    """Why `label` cannot name a class, or None."""
    if not label.strip():
        return "is empty"
    if len(label.encode("utf-8", "surrogatepass")) > MAX_PART_BYTES:
        return f"is longer than {MAX_PART_BYTES} bytes"
    return text_fault(label)


def path_fault(name: str) -> str | None:
    """Why `name` is refused as a path inside an archive, or None.

    Nothing is ever extracted to a path, so none of these could do harm here; they are refused because no honest
    archive needs them and the next program to open the file may extract it.
    """
    fault = text_fault(name)
    if fault:
        return f"the name {fault}; rename the file"
    if not clean_path(name) and not name.endswith("/"):
        return "the name is empty; rename the file"
    if "\\" in name:
        return "the name has a backslash; folders in a zip are written with '/': make the zip with another program"
    if name.startswith("/"):
        return "an absolute path; names must be relative to the archive"
    if ":" in name:
        return "the name has a ':', which is a drive letter or a stream on Windows; rename the file"
    parts = name.split("/")
    if ".." in parts:
        return "the path leads out of the archive ('..')"
    if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return f"a part of the name is longer than {MAX_PART_BYTES} bytes; shorten it"
    if len(name.encode()) > MAX_PATH_BYTES:
        return f"the path is longer than {MAX_PATH_BYTES} bytes; shorten it"
    return None


def clean_path(name: str) -> str:
    """The path without empty and `.` parts (`./cat//1.png` is `cat/1.png`)."""
    if "//" not in name and "./" not in name and not name.startswith("/") and not name.endswith(("/", ".")):
        return name
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def junk_kind(path: str) -> str | None:
    """Which kind of litter a desktop left behind this is, or None for a real file."""
    for part in path.split("/"):
        lowered = part.lower()
        if lowered in _JUNK_PARTS:
            return _JUNK_PARTS[lowered]
        if lowered == "thumbs.db":
            return "Thumbs.db"
        if part.startswith("."):
            return "dotfiles"
    return None


def shown(name: str, limit: int = MAX_PATH_BYTES) -> str:
    """`name` fit for a message or a terminal: nothing invisible in it, and not too long."""
    if not (name.isascii() and name.isprintable()):
        name = "".join(c if text_fault(c) is None else c.encode("unicode_escape").decode("ascii") for c in name)
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[-limit // 2 :]}"
