"""Reading a report that anybody may have written, and writing its numbers for people.

An imported model carries a stranger's report: any key may be missing, of another type, NaN or megabytes long. Nothing
here raises; what cannot be used is `not known`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from npt_core.data.names import shown

NOT_KNOWN = "not known"
MAX_TEXT = 120
"""Characters of a name or path on the page; the middle of longer ones is left out."""


def at(value: Any, *path: str) -> Any:
    """Return what lies under nested keys, None where the way is broken."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mapping(value: Any, *path: str) -> Mapping[str, Any]:
    """Return the object under nested keys, else an empty one."""
    found = at(value, *path)
    return found if isinstance(found, Mapping) else {}


def objects(value: Any, *path: str) -> list[Mapping[str, Any]]:
    """Return the objects in a list under nested keys; anything else in it is passed over."""
    return [one for one in entries(value, *path) if isinstance(one, Mapping)]


def entries(value: Any, *path: str) -> Sequence[Any]:
    """Return the list under nested keys, else an empty one."""
    found = at(value, *path)
    return found if isinstance(found, list | tuple) else []


def number(value: Any, *path: str) -> float | None:
    """Return a finite number, else None; true and false are none."""
    found = at(value, *path)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        finite = float(found)
    except OverflowError:
        return None
    return finite if math.isfinite(finite) and abs(finite) < 1e15 else None


def count(value: Any, *path: str) -> int | None:
    """Return a whole number from 0, else None."""
    found = number(value, *path)
    return int(found) if found is not None and found >= 0 and found == int(found) else None


def share(value: Any, *path: str) -> float | None:
    """Return a number from 0 to 1, else None."""
    found = number(value, *path)
    return found if found is not None and 0 <= found <= 1 else None


def text(value: Any, *path: str, limit: int = MAX_TEXT) -> str:
    """Return text fit to be shown, with nothing invisible in it; numbers are written out."""
    found = at(value, *path)
    if isinstance(found, str):
        if len(found) > 4 * limit:
            found = found[: 2 * limit] + found[-2 * limit :]
        return shown(found, limit)
    if isinstance(found, bool):
        return "yes" if found else "no"
    if number(found) is not None:
        return plain(found)
    return NOT_KNOWN


def known(value: Any, *path: str) -> bool:
    """Return whether `text` has something to show."""
    return text(value, *path) not in (NOT_KNOWN, "")


def finite(value: Any) -> Any:
    """Return a JSON value in which every NaN and infinity is None, so that it can be written as JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return value


# --- numbers for people -----------------------------------------------------------------------------------------------

NBSP, MINUS = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"


def plain(value: Any, digits: int = 3) -> str:
    """Return a number in few digits: `1,800`, `0.951`, `1.7e-05`."""
    found = number(value)
    if found is None:
        return NOT_KNOWN
    if found == int(found) and abs(found) < 1e9:
        written = f"{int(found):,}"
    elif abs(found) >= 1000:
        written = f"{found:,.0f}"
    elif 0 < abs(found) < 10**-digits:
        written = f"{found:.1e}"
    else:
        written = f"{found:.{digits}f}"
    return written.replace("-", MINUS, 1) if written.startswith("-") else written


def percent(value: Any, digits: int = 1) -> str:
    """Return a share from 0 to 1 as `95.0 %`."""
    found = number(value)
    return NOT_KNOWN if found is None else f"{plain_fixed(100 * found, digits)}{NBSP}%"


def points(value: Any) -> str:
    """Return a difference of two shares with its sign: `+2.5`, in percentage points."""
    found = number(value)
    if found is None:
        return NOT_KNOWN
    return signed(100 * found, 1)


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign, none for zero."""
    written = plain_fixed(value, digits)
    return f"+{written}" if value > 0 and float(written) != 0 else written


def plain_fixed(value: float, digits: int) -> str:
    """Return a number with a fixed number of decimals and a true minus; never a negative zero."""
    written = f"{value:.{digits}f}"
    if float(written) == 0:
        written = f"{0:.{digits}f}"
    return written.replace("-", MINUS)


def p_value(value: Any) -> str:
    """Return a p-value in words that read well after `p`: `= 0.031`, `< 0.001`."""
    found = share(value)
    if found is None:
        return NOT_KNOWN
    return f"<{NBSP}0.001" if found < 0.001 else f"={NBSP}{found:.3f}" if found < 0.995 else f"={NBSP}1"


def interval(value: Any, *path: str) -> tuple[float, float] | None:
    """Return the two ends of an interval of shares."""
    ends = [share(end) for end in entries(value, *path)[:2]]
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None and ends[0] <= ends[1]:
        return ends[0], ends[1]
    return None


def moment(value: Any) -> str:
    """Return an RFC 3339 time to the minute: `2026-11-25 02:10 UTC`."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) and len(value) < 64 else None
        return NOT_KNOWN if found is None else found.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return NOT_KNOWN


def things(n: int, one: str, many: str | None = None) -> str:
    """Return `1 image`, `12 images`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Return names joined for a sentence; what is over the limit is counted."""
    kept = list(names[:limit])
    rest = len(names) - len(kept)
    if rest:
        kept.append(f"{rest:,} more")
    return kept[0] if len(kept) == 1 else f"{', '.join(kept[:-1])} and {kept[-1]}" if kept else ""


def cut(label: str, columns: int) -> str:
    """Return a label that fits so many columns of text, without its middle where it is longer.

    Wide characters take two columns. The end is kept because that is where names like `variety 7` differ.
    """
    if _width(label) <= columns:
        return label
    head = _fitting(label, (columns - 1) - (columns - 1) // 2)
    tail = _fitting(label[::-1], columns - 1 - _width(head))[::-1]
    return f"{head}…{tail}"


def _width(label: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in label)


def _fitting(label: str, columns: int) -> str:
    kept = 0
    while _width(label[: kept + 1]) <= columns:
        kept += 1
    return label[:kept]
