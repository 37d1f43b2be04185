"""Names inside an archive that lead elsewhere, hide something, or cannot both exist."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.security.corpus.case import Case, beside_good
from tests.support.zips import RawEntry

OUT, ABSOLUTE, BACKSLASH = "leads out of the archive", "an absolute path", "has a backslash"
DRIVE, CONTROL, BIDI = "has a ':'", "has a control character", "changes the reading direction"
LONG, NO_UTF8, TWICE, SAME, NAMELESS = "is longer than", "UTF-8", "occurs twice", "differs from", "is empty"

NAMES: dict[str, tuple[bytes | str, str]] = {
    "up": ("../evil.png", OUT),
    "up-from-a-folder": ("cat/../../evil.png", OUT),
    "up-at-the-end": ("cat/..", OUT),
    "up-in-the-middle": ("cat/../dog/9.png", OUT),
    "up-as-a-folder": ("../", OUT),
    "up-under-litter": ("__MACOSX/../x.png", OUT),
    "up-behind-a-dot": ("./../x.png", OUT),
    "absolute": ("/etc/passwd", ABSOLUTE),
    "absolute-twice": ("//server/share/x.png", ABSOLUTE),
    "absolute-and-up": ("/../x.png", ABSOLUTE),
    "backslash": ("cat\\9.png", BACKSLASH),
    "backslash-up": ("..\\evil.png", BACKSLASH),
    "unc": ("\\\\server\\share\\x.png", BACKSLASH),
    "drive": ("C:/evil.png", DRIVE),
    "drive-relative": ("C:evil.png", DRIVE),
    "stream": ("cat/9.png:hidden", DRIVE),
    "url": ("http://169.254.169.254/x.png", DRIVE),
    "nul": ("cat/9.png\0.txt", "NUL"),
    "newline": ("cat/9\n.png", CONTROL),
    "return": ("cat/9\r.png", CONTROL),
    "tab": ("cat/9\t.png", CONTROL),
    "bell": ("cat/9\a.png", CONTROL),
    "backspace": ("cat/9\b\b.png", CONTROL),
    "terminal": ("cat/\x1b[2J\x1b]0;x\a.png", CONTROL),
    "delete": ("cat/9\x7f.png", CONTROL),
    "next-line": ("cat/9\u0085.png", CONTROL),
    "c1-csi": ("cat/9\u009b31m.png", CONTROL),
    "line-separator": ("cat/9\u2028.png", CONTROL),
    "paragraph-separator": ("cat/9\u2029.png", CONTROL),
    "control-in-a-class": ("ca\x1bt/9.png", CONTROL),
    "long-part": ("cat/" + "a" * 252 + ".png", LONG),
    "long-part-in-bytes": ("cat/" + "é" * 128, LONG),
    "long-path": ("/".join(["abcdefghi"] * 110), LONG),
    "long-as-a-zip-allows": ("cat/" + "a" * 65000, LONG),
    "not-utf8": (b"Gr\x94\xe1e/9.png", NO_UTF8),
    "overlong-dots": (b"\xc0\xae\xc0\xae/9.png", NO_UTF8),
    "overlong-slash": (b"cat\xc0\xaf9.png", NO_UTF8),
    "half-a-pair": (b"cat/\xed\xa0\x80.png", NO_UTF8),
    "cut-character": (b"cat/\xe8\xb2", NO_UTF8),
    "utf16": ("cat/9.png".encode("utf-16-le"), "NUL"),
    "twice": ("cat/0.png", TWICE),
    "twice-with-a-dot": ("./cat/0.png", TWICE),
    "twice-with-a-slash": ("cat//0.png", TWICE),
    "case": ("cat/0.PNG", SAME),
    "case-of-a-class": ("CAT/0.png", SAME),
    "kelvin": ("\u212aat/0.png", SAME),
    "no-name": (b"", NAMELESS),
    "only-a-dot": (".", NAMELESS),
    "only-dots-and-slashes": ("./.", NAMELESS),
}

PAIRS: dict[str, tuple[str, str]] = {
    "composed": ("cat/\u00e9.png", "cat/e\u0301.png"),
    "sharp-s": ("cat/stra\u00dfe.png", "cat/STRASSE.png"),
    "ligature": ("cat/\ufb01n.png", "cat/FIN.png"),
    "sigma": ("cat/\u03c3.png", "cat/\u03c2.png"),
    "dotted-i": ("cat/\u0130.png", "cat/i\u0307.png"),
}

BOTH = ("cat/9.png", "cat/9.png/1.png")
"""A file that is a folder too."""

BIDI_MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _cases() -> Iterator[Case]:
    for name, (path, says) in NAMES.items():
        raw = path if isinstance(path, bytes) else path.encode()
        if name == "kelvin":  # beside a class that begins with a k
            yield _pair(name, "kat/0.png", "\u212aat/0.png")
        else:
            yield Case(f"name-{name}", partial(beside_good, RawEntry(raw, b"x")), says)
    for mark in BIDI_MARKS:
        raw = f"cat/{mark}gnp.exe".encode()
        yield Case(f"name-bidi-{ord(mark):04x}", partial(beside_good, RawEntry(raw, b"x")), BIDI)
    for name, (first, second) in PAIRS.items():
        yield _pair(name, first, second)
    yield _pair("file-and-folder", *BOTH, says="a file and a folder")
    many = [RawEntry(f"../{n}".encode()) for n in range(5000)]
    yield Case("name-thousands", partial(beside_good, *many), "5,000 problems")


def _pair(name: str, first: str, second: str, says: str = SAME) -> Case:
    entries = RawEntry(first.encode(), b"1"), RawEntry(second.encode(), b"2")
    return Case(f"names-{name}", lambda: beside_good(*entries), says)


CASES = tuple(_cases())
