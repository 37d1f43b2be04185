"""Parsers of the text files a data set may carry: metadata.jsonl, metadata.csv, labels.csv, classes.json."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from npt_core.data.faults import FaultLog, plural
from npt_core.data.labels import ClassInfo, prompt_name
from npt_core.data.names import label_fault, nfc, shown, text_fault
from npt_core.errors import DatasetError, Fault
from npt_core.plainjson import read_plain

MAX_LINES = 400_000
MAX_LINE = 1024 * 1024
"""Characters of one line of JSON: as objects it takes thirty times as much."""

MAX_WORDS = 300
MAX_PHRASINGS = 64

_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: which file it names (as written) and the label it gives."""

    line: int
    file: str
    label: str


def refuse(path: str, message: str) -> DatasetError:
    """The error for a table that cannot be used at all."""
    return DatasetError(f"{shown(path)}: {message}", [Fault(shown(path), message)])


def parse_table(data: bytes, path: str, *, file_column: str, max_lines: int = MAX_LINES) -> tuple[list[Row], FaultLog]:
    """Parse a table of files and labels; JSON Lines when `path` ends in `.jsonl`, else CSV with a header.

    Args:
        data: The file's bytes, UTF-8 with or without a byte order mark.
        path: Its path in the archive, for messages.
        file_column: `file_name` (metadata) or `filename` (labels.csv); the other column is `label`.
        max_lines: Most lines, empty and bad ones too: reading each takes its time.

    Returns:
        The usable rows, and the lines that are not: those concern single files and sink nothing.

    Raises:
        DatasetError: Not UTF-8, not the format, columns missing, no row at all, or more than `max_lines`.
    """
    _check_utf8(data, path)
    faults = FaultLog()
    is_jsonl = path.lower().endswith(".jsonl")
    ends = (b"\n",) if is_jsonl else (b"\n", b"\r")
    if max(map(data.count, ends)) > max_lines:  # before seconds are spent on reading them
        raise _too_many(path, max_lines)
    lines = _lines(data, "\n" if is_jsonl else "", path, max_lines)
    records = _jsonl(lines, path, faults) if is_jsonl else _csv(lines, path, file_column)
    rows: list[Row] = []
    seen = False
    for line, record in records:
        if not seen:
            _check_columns(record, path, file_column)
            seen = True
        file, label = record.get(file_column), _label_text(record.get("label"))
        where = f"{shown(path)}:{line}"
        if not isinstance(file, str) or not file.strip():
            faults.add(where, f"no {file_column}; the line is left out")
        elif label is None:
            faults.add(where, f"{shown(file)} has no usable label; text or a whole number is accepted")
        elif fault := label_fault(label):
            faults.add(where, f"the label of {shown(file)} {fault}")
        else:
            rows.append(Row(line, file, nfc(label)))
    if not rows and not faults:
        raise refuse(path, f"holds no line; give one line a picture with {file_column} and label, or remove the file")
    return rows, faults


def _check_utf8(data: bytes, path: str) -> None:
    """Decode a piece at a time and keep nothing: as one text it may take four times its bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _PIECE):
        waiting = len(decoder.getstate()[0])
        try:
            decoder.decode(data[start : start + _PIECE], final=start + _PIECE >= len(data))
        except UnicodeDecodeError as error:
            at = start - waiting + error.start
            raise refuse(path, f"is not UTF-8 text (byte {at:,}); save it as UTF-8") from error


def _lines(data: bytes, newline: str, path: str, most: int) -> Iterator[str]:
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=newline), start=1):
        if number > most:
            raise _too_many(path, most)
        yield line


def _too_many(path: str, most: int) -> DatasetError:
    return refuse(path, f"has more than {most:,} lines; give one line a picture")


def _check_columns(record: dict[str, Any], path: str, file_column: str) -> None:
    missing = [column for column in (file_column, "label") if column not in record]
    if missing:
        found = ", ".join(shown(str(key), 40) for key in list(record)[:20]) or "none"
        raise refuse(
            path,
            f"has no column {' and no column '.join(missing)}; found: {found}. Name the columns {file_column} and "
            "label, or remove the file to take labels from folders",
        )


def _label_text(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) else None


def _jsonl(lines: Iterator[str], path: str, faults: FaultLog) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        if len(raw) > MAX_LINE:
            faults.add(f"{shown(path)}:{line}", f"the line is too long ({len(raw):,} characters of {MAX_LINE:,})")
            continue
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too long"
            faults.add(f"{shown(path)}:{line}", f"not JSON ({reason}); one object a line is accepted")
            continue
        if isinstance(value, dict):
            yield line, value
        else:
            faults.add(f"{shown(path)}:{line}", "not a JSON object; one object a line is accepted")


def _csv(lines: Iterator[str], path: str, file_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(lines, skipinitialspace=True, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            raise refuse(path, f"is empty; its first line must name the columns {file_column} and label")
        if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
            raise refuse(path, "is separated by semicolons or tabs; separate the columns by commas")
        _check_columns(dict.fromkeys(header), path, file_column)
        for values in reader:
            if values:
                yield reader.line_num, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise refuse(path, f"is not CSV (line {reader.line_num}: {error}); quote fields that hold commas") from error


def parse_classes(data: bytes, path: str) -> dict[str, ClassInfo]:
    """Parse `classes.json`: `{label: {"name": words, "prompts": [phrasings]}}`, both optional.

    Raises:
        DatasetError: Not of that form; every fault is listed.
    """
    _check_utf8(data, path)
    try:
        value = read_plain(data)
    except ValueError as error:
        raise refuse(path, f"is not JSON that can be used ({shown(str(error))})") from error
    form = '{"folder": {"name": "words", "prompts": ["one phrasing", "another"]}}'
    if not isinstance(value, dict):
        raise refuse(path, f"is not a JSON object; the accepted form is {form}")
    faults = FaultLog()
    classes = {nfc(label): _class_info(nfc(label), body, path, faults) for label, body in value.items()}
    if faults:
        raise DatasetError(
            f"{shown(path)} has {plural(faults.total, 'fault')}; the accepted form is {form}.", faults.faults()
        )
    return classes


def _class_info(label: str, body: object, path: str, faults: FaultLog) -> ClassInfo:
    where = f"{shown(path)}: {shown(label)}"
    plain = ClassInfo.from_label(label)
    if not isinstance(body, dict):
        faults.add(where, 'not an object with "name" or "prompts"')
        return plain
    unknown = sorted(set(body) - {"name", "prompts"})
    if unknown:
        faults.add(where, f"unknown key {shown(unknown[0])}; accepted are name and prompts")
    name = body.get("name", prompt_name(label))
    prompts = body.get("prompts", [name])
    if not _is_words(name):
        faults.add(where, f"name is not text of 1 to {MAX_WORDS} characters")
        return plain
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_PHRASINGS or not all(map(_is_words, prompts)):
        faults.add(where, f"prompts is not a list of 1 to {MAX_PHRASINGS} texts of 1 to {MAX_WORDS} characters")
        return plain
    return ClassInfo(label, name, tuple(dict.fromkeys(prompts)))


def _is_words(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and len(value) <= MAX_WORDS and text_fault(value) is None
