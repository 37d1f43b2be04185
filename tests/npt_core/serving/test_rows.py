"""Answers as lines of JSON and as a table: whatever the names hold, both can be read back, and neither is a formula."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npt_core.classifier import Scores
from npt_core.errors import ImageError
from npt_core.serving.ranking import Candidate, Ranking
from npt_core.serving.rows import Table, line, row, rows_of
from npt_core.serving.stream import Part

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def scores(*labels: str, n: int = 2) -> Scores:
    raw = torch.arange(n * len(labels), dtype=torch.float32).reshape(n, len(labels))
    return Scores(labels, raw.softmax(1), raw / 100)


def table(width: int, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    made = Table(width)
    text = b"".join([made.header(), *map(made.line, rows)]).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_rows_are_picture_by_picture_and_model_by_model() -> None:
    part = Part(("a", "b", "c"), {1: ImageError("an empty file")}, (scores("x", "y"), scores("y", "z", "x")))
    found = list(rows_of(part, ["one", "two"], top_k=2))
    assert [(one["filename"], one["model"]) for one in found] == [(f, m) for f in "abc" for m in ("one", "two")]
    assert [[t["label"] for t in one["top"]] for one in found] == [
        ["y", "x"],
        ["x", "z"],
        [],
        [],
        ["y", "x"],
        ["x", "z"],
    ]
    assert found[2]["error"] == found[3]["error"] == {"code": "invalid-image", "detail": "an empty file"}
    assert all("error" not in one for one in found[:2])


@given(names, names, names)
def test_what_is_written_can_be_read_back(filename: str, label: str, detail: str) -> None:
    ranked = row(filename, "m", Ranking((Candidate(label, 0.75, -0.25), Candidate("b", 0.25, 0.5)), True))
    broken = row(filename, "m", ImageError(detail))
    for one in (ranked, broken):
        assert line(one).count(b"\n") == 1
        assert json.loads(line(one)) == one
    first, second = table(3, [ranked, broken])
    for cell, text in ((first["filename"], filename), (first["label"], label), (second["error"], detail)):
        assert cell.removeprefix("'") == text.removeprefix("'")
        assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n")
    assert (first["probability"], first["similarity"], first["rejected"]) == ("0.75", "-0.25", "true")
    assert (first["label_2"], first["label_3"]) == ("b", "")
    assert (second["label"], second["probability"], second["rejected"]) == ("", "", "false")


def test_numbers_that_are_none() -> None:
    one = row("a", "m", Ranking((Candidate("x", math.nan, math.inf),), False))
    assert json.loads(line(one))["top"] == [{"label": "x", "probability": None, "similarity": None}]
    assert table(1, [one])[0]["probability"] == ""


@pytest.mark.parametrize("width", [0, 1, 4])
def test_the_header(width: int) -> None:
    columns = Table(width).header().decode().strip().split(",")
    assert columns[:7] == ["filename", "model", "label", "probability", "similarity", "rejected", "error"]
    assert columns[7:] == [
        f"{word}_{n}" for n in range(2, width + 1) for word in ("label", "probability", "similarity")
    ]
