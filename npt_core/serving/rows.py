"""Answers as rows of text: one JSON object a line, and a table for spreadsheets made from those lines.

A row is what `POST /predict` says of one picture, and which model says it:

    {"filename": "a/b.png", "model": "model_…", "top": [{"label": "cat", "probability": 0.93, "similarity": 0.31}],
     "rejected": false}

A picture that cannot be read has `"top": []` and an `error` with `code` and `detail`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from npt_core.errors import NPTError
from npt_core.serving.ranking import Ranking, rank
from npt_core.serving.stream import Part

_FIRST = ("filename", "model", "label", "probability", "similarity", "rejected", "error")
_FORMULA = frozenset("=+-@\t\r\n")


def row(filename: str, model: str, answer: Ranking | NPTError) -> dict[str, Any]:
    """Return one answer as JSON-able values."""
    if isinstance(answer, NPTError):
        error = {"code": answer.code, "detail": answer.message}
        return {"filename": filename, "model": model, "top": [], "rejected": False, "error": error}
    top = [
        {"label": one.label, "probability": _finite(one.probability), "similarity": _finite(one.similarity)}
        for one in answer.top
    ]
    return {"filename": filename, "model": model, "top": top, "rejected": answer.rejected}


def rows_of(
    part: Part, models: Sequence[str], *, top_k: int, reject_below: Sequence[float] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of some pictures: picture by picture, and for each the models in their order.

    Args:
        part: What `classify_stream` gave.
        models: How each of its asks is called.
        top_k: Classes in an answer.
        reject_below: Of each model, see `rank`; None: 0 for all.
    """
    thresholds = reject_below or [0.0] * len(models)
    answers = [
        iter(rank(scores, top_k, threshold)) for scores, threshold in zip(part.scores, thresholds, strict=False)
    ]  # no scores at all where no picture could be read
    for position, filename in enumerate(part.names):
        error = part.errors.get(position)
        for number, model in enumerate(models):
            yield row(filename, model, next(answers[number]) if error is None else error)


def line(one: Mapping[str, Any]) -> bytes:
    """Return a row as a line of JSON in UTF-8."""
    return json.dumps(one, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class Table:
    """The same rows for a spreadsheet: CSV as RFC 4180 has it, UTF-8, the header first.

    The columns are filename, model, label, probability, similarity, rejected, error, and then label_2, probability_2,
    similarity_2 and so on. A text that a spreadsheet could take for a formula (it begins with = + - @, a tab or a line
    break) has an apostrophe before it.

    Args:
        width: Classes in an answer at most.
    """

    def __init__(self, width: int) -> None:
        self.width = max(1, width)

    def header(self) -> bytes:
        """Return the first line."""
        more = (f"{word}_{n}" for n in range(2, self.width + 1) for word in ("label", "probability", "similarity"))
        return _cells([*_FIRST, *more])

    def line(self, one: Mapping[str, Any]) -> bytes:
        """Return a row, as `row` makes it, as a line."""
        tops = [[_plain(c["label"]), c["probability"], c["similarity"]] for c in one["top"][: self.width]]
        tops += [["", "", ""]] * (self.width - len(tops))
        error = one.get("error")
        told = [str(one["rejected"]).lower(), _plain(error["detail"]) if error else ""]
        rest = [cell for cells in tops[1:] for cell in cells]
        return _cells([_plain(one["filename"]), _plain(one["model"]), *tops[0], *told, *rest])


def _finite(value: float) -> float | None:
    """None where a tower in half precision went beyond what it can count to: JSON has no word for that."""
    return value if math.isfinite(value) else None


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in _FORMULA else text


def _cells(cells: Sequence[Any]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue().encode()
