"""What makes an archive hostile, entry by entry, from its directory alone."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from npt_core.data.directory import UTF8_FLAG, Record
from npt_core.data.faults import ARCHIVE_PATH, FaultLog
from npt_core.data.names import clean_path, collision_key, path_fault, shown

_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCH_DATA = 0x20
_METHODS = {0: "stored", 8: "deflated"}
_OTHER_METHODS = {
    1: "shrunk",
    6: "imploded",
    9: "deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
    99: "AES encryption",
}
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class Limits:
    """What an archive may cost. Every limit holds while reading, not after.

    Args:
        archive_bytes: Size of the zip itself.
        entries: Files and folders in it.
        entry_bytes: Unpacked size of one file.
        total_bytes: Unpacked size of all files together.
        ratio: Unpacked over packed size of one file, judged only above `ratio_from_bytes` unpacked: small flat
            pictures shrink a great deal and harm nobody.
        ratio_from_bytes: See `ratio`.
        sum_ratio_from_bytes: From this unpacked size of all files on, the ratio of the archive as a whole is judged
            too: a million small flat pictures harm as one large one does.
        directory_bytes: Size of the zip's directory.
        table_bytes: Size of one metadata, labels or classes file, which is read whole.
    """

    archive_bytes: int = 2 * 1024**3
    entries: int = 100_000
    entry_bytes: int = 256 * 1024**2
    total_bytes: int = 8 * 1024**3
    ratio: float = 200.0
    ratio_from_bytes: int = 1_000_000
    sum_ratio_from_bytes: int = 256 * 1024**2
    directory_bytes: int = 64 * 1024**2
    table_bytes: int = 64 * 1024**2


class Checked(NamedTuple):
    """An entry that passed every check: its clean path, its record and its place in the directory."""

    path: str
    record: Record
    position: int
    is_folder: bool


class Verdict(NamedTuple):
    """What `check_records` found: entries no honest archive has, and entries over a limit."""

    hostile: FaultLog
    over_limit: FaultLog


def decode_name(record: Record) -> str | None:
    """The name as text, or None when it is not UTF-8 (whether or not the entry claims to be)."""
    try:
        return record.name.decode("utf-8")
    except UnicodeDecodeError:
        return None


def check_records(records: Sequence[Record], limits: Limits, directory_offset: int) -> tuple[list[Checked], Verdict]:
    """Judge every entry.

    Args:
        records: All entries, in the order of the directory.
        limits: What is accepted.
        directory_offset: Where the directory begins: no entry may reach into it.

    Returns:
        The entries nothing is wrong with, and what is wrong with the others.
    """
    verdict = Verdict(FaultLog(), FaultLog())
    checked: list[Checked] = []
    paths: dict[str, str] = {}
    for index, record in enumerate(records):
        name = decode_name(record)
        path = _shown_name(record)
        fault = _name_fault(record, name) or _kind_fault(record)
        if fault is not None or name is None:
            verdict.hostile.add(path, fault or "")
            continue
        over = _limit_fault(record, limits)
        if over is not None:
            verdict.over_limit.add(path, over)
            continue
        clean, is_folder = clean_path(name), name.endswith("/")
        if not is_folder:
            key = collision_key(clean)
            if key in paths:
                verdict.hostile.add(path, _duplicate_fault(clean, paths[key]))
                continue
            paths[key] = clean
        checked.append(Checked(clean, record, index, is_folder))
    _both_file_and_folder(checked, paths, verdict.hostile)
    overlapping = _overlapping(records, directory_offset, verdict.hostile)
    over = _sum_fault(records, limits)
    if over is not None:
        verdict.over_limit.add(ARCHIVE_PATH, over)
    return [item for item in checked if item.position not in overlapping], verdict


def _sum_fault(records: Sequence[Record], limits: Limits) -> str | None:
    total = sum(record.size for record in records)
    if total > limits.total_bytes:
        return f"unpacks to {total:,} bytes; {limits.total_bytes:,} are accepted in all: send fewer or smaller pictures"
    packed = sum(record.compressed for record in records)
    if total > limits.sum_ratio_from_bytes and total > limits.ratio * packed:
        return (
            f"unpacks to {total / max(packed, 1):,.0f} times its size; {limits.ratio:g} times is accepted from "
            f"{limits.sum_ratio_from_bytes:,} bytes on: store the pictures as PNG or JPEG"
        )
    return None


def _both_file_and_folder(checked: Sequence[Checked], files: Mapping[str, str], hostile: FaultLog) -> None:
    """Report files that are the folder of another entry: no disk can hold both, and readers differ in which they take.

    Sorted with NUL for the slash, which no name holds, what lies in a folder comes right behind the folder's own name.
    """
    names = [(key.replace("/", "\0"), False, path) for key, path in files.items()]
    names += [(collision_key(one.path).replace("/", "\0"), True, one.path) for one in checked if one.is_folder]
    for (key, is_folder, path), (after, _, other) in pairwise(sorted(names)):
        if not is_folder and (after == key or after.startswith(f"{key}\0")):
            hostile.add(shown(path), f"the name is that of a file and a folder (see {shown(other)}): rename one")


def _name_fault(record: Record, name: str | None) -> str | None:
    if name is None:
        claim = "says it is UTF-8 and is not" if record.flags & UTF8_FLAG else "is not in UTF-8"
        return f"the name {claim}, so the class it names cannot be known; make the zip again with UTF-8 names"
    return path_fault(name)


def _kind_fault(record: Record) -> str | None:
    kind = stat.S_IFMT(record.mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"{_KINDS.get(kind, 'a special file')}; only files and folders are accepted: put the picture itself here"
    if record.flags & _ENCRYPTED:
        return "encrypted; make the zip again without a password"
    if record.method not in _METHODS:
        method = _OTHER_METHODS.get(record.method, f"method {record.method}")
        return f"compressed with {method}; stored and deflated are accepted: make the zip again with the default method"
    if record.flags & _PATCH_DATA:
        return "holds patch data, not a file; make the zip again"
    if record.method == 0 and record.size != record.compressed:
        return f"stored, yet its two sizes differ ({record.compressed:,} and {record.size:,} bytes); make the zip again"
    return None


def _limit_fault(record: Record, limits: Limits) -> str | None:
    if record.size > limits.entry_bytes:
        return f"unpacks to {record.size:,} bytes; one file may have {limits.entry_bytes:,}"
    if record.size > limits.ratio_from_bytes and record.size > limits.ratio * record.compressed:
        ratio = record.size / max(record.compressed, 1)
        return f"unpacks to {ratio:,.0f} times its size; {limits.ratio:g} times is accepted: store it as PNG or JPEG"
    return None


def _duplicate_fault(path: str, first: str) -> str:
    if path == first:
        return "the name occurs twice in the archive; a reader would take one and lose the other: rename one"
    return f"the name differs from {shown(first)} only by case or accents' encoding: rename one"


def _overlapping(records: Sequence[Record], directory_offset: int, hostile: FaultLog) -> set[int]:
    """Positions of entries that share bytes with the next one, which is how a small file unpacks to petabytes."""
    order = sorted(range(len(records)), key=lambda position: records[position].offset)
    found = set()
    for here, after in zip(order, [*order[1:], None], strict=False):
        limit = directory_offset if after is None else records[after].offset
        if records[here].least_end > limit:
            found.add(here)
            other = "the directory" if after is None else _shown_name(records[after])
            hostile.add(_shown_name(records[here]), f"its bytes overlap those of {other}; make the zip again")
    return found


def _shown_name(record: Record) -> str:
    return shown(record.name.decode("utf-8", "backslashreplace"))
