"""The examples of docs/datasets.md, read and run."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from npt_core.data.archive import SafeArchive
from npt_core.data.checks import Limits
from npt_core.data.dataset import Dataset
from npt_core.data.images import MAX_JPEG_PIXELS, MAX_PIXELS, MAX_PROGRESSIVE_PIXELS, MAX_SIDE
from npt_core.data.layout import read_layout
from npt_core.data.tables import parse_classes
from tests.support.zips import classes

TEXT = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", blocks("layout"))
def test_layout_examples_are_true(make_zip, example):
    files: dict[str, bytes] = {}
    expected: dict[str, tuple[str, str] | None] = {}
    for line in example.splitlines():
        table, is_table, content = line.partition("::")
        if is_table:
            files[table.strip()] = files.get(table.strip(), b"") + content.strip().encode() + b"\n"
            continue
        path, _, said = (part.strip() for part in line.partition("->"))
        files[path] = b"x"
        label, _, split = said.rpartition(", ")
        expected[path] = None if said == "left out" else (label, split)
    with SafeArchive.open(make_zip(files)) as archive:
        found = read_layout(archive)
    assert {s.path: (s.label, s.split) for s in found.samples} == {k: v for k, v in expected.items() if v is not None}
    assert {fault.path for fault in found.faults} == {path for path, told in expected.items() if told is None}


def test_there_are_examples_of_every_layout():
    assert len(blocks("layout")) == 5


def test_the_classes_example_is_true():
    (example,) = blocks("json")
    assert parse_classes(example.encode(), "classes.json").keys() == json.loads(example).keys()


def test_the_library_example_runs(make_zip, monkeypatch, capsys):
    path = make_zip(classes("cat", "dog", images=5))
    monkeypatch.chdir(path.parent)
    path.rename("pictures.zip")
    make_zip(classes("cat", images=2, prefix="train/")).rename("more.zip")
    (example,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(example, "datasets.md", "exec"), names)
    rest, again = names["rest"], names["again"]
    assert isinstance(rest, Dataset)
    assert isinstance(again, Dataset)
    assert len(rest) == 9
    assert again.read(again.samples[0])
    assert "cat" in capsys.readouterr().out


def test_every_kind_of_finding_is_told_with_its_severity():
    core = Path(__file__).parents[3] / "npt_core"
    source = "".join(path.read_text() for path in [*core.glob("audit/*.py"), core / "data" / "audit.py"])
    made = set(re.findall(r'(?:finding|_near|Finding)\(\s*"([a-z-]+)",\s*"(\w+)"', source))
    rows = re.findall(r"^\| (`[^|]+) \| (info|warning) \|", TEXT, re.MULTILINE)
    told = {(kind, severity) for kinds, severity in rows for kind in re.findall(r"`([a-z-]+)`", kinds)}
    assert len(made) == 20
    assert told == made


def test_the_limits_told_are_the_limits_held():
    sizes = {"GiB": 2**30, "MiB": 2**20}
    archives = TEXT[TEXT.index("## Archives") : TEXT.index("## What is refused")]
    told = dict(re.findall(r"\| `(\w+)`[^|]*\| ([^|]+) \|", archives))
    limits = Limits()
    for name, value in told.items():
        number, _, unit = value.partition(" ")
        assert getattr(limits, name) == float(number.replace(",", "")) * sizes.get(unit, 1)
    assert told.keys() == {field.name for field in fields(Limits)} - {"ratio_from_bytes"}
    for name, value in [
        ("pixels", MAX_PIXELS // 10**6),
        ("longest side", MAX_SIDE),
        ("JPEG, shrunk by its decoder while it is read", MAX_JPEG_PIXELS // 10**6),
        ("progressive JPEG", MAX_PROGRESSIVE_PIXELS // 10**6),
    ]:
        assert f"| {name} | {value:,}" in TEXT
