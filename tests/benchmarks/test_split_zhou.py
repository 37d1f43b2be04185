"""The parser of `split_zhou_*.json`, on good splits and on anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper_sets.split_zhou import parse
from npt_core.errors import DatasetError

plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
near_entries = st.lists(
    st.lists(st.one_of(st.text(max_size=12), st.integers(-1, 4), st.sampled_from(["a/1.jpg", "..", "cat"])), max_size=4)
    | st.tuples(st.text(max_size=12), st.integers(-1, 3), st.sampled_from(["cat", "dog", "_", ""])).map(list)
    | anything,
    max_size=6,
)
near_splits = st.fixed_dictionaries({}, optional=dict.fromkeys(("train", "val", "test"), near_entries | anything))


def parse_or_refuse(raw: bytes) -> None:
    """Any other error than this one fails the test."""
    try:
        entries = parse(raw, Path("split.json"))
    except DatasetError:
        return
    labels = {entry.label for part in entries.values() for entry in part}
    assert labels == set(range(len(labels)))
    for part in entries.values():
        for entry in part:
            assert not entry.path.is_absolute()
            assert ".." not in entry.path.parts


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_the_parser_refuses_any_bytes_in_one_way(raw):
    parse_or_refuse(raw)


@given(anything | near_splits)
def test_the_parser_refuses_any_json_in_one_way(value):
    parse_or_refuse(json.dumps(value).encode())


name_parts = st.text(st.characters(categories=("L", "N"), include_characters="-_' "), min_size=1, max_size=12).filter(
    lambda name: name.strip(" _") and name.isprintable()
)


def in_words(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


@st.composite
def good_splits(draw):
    """A split as CoOp writes one: some pictures of every class in every part."""
    names = draw(st.lists(name_parts, min_size=2, max_size=6, unique_by=in_words))
    sizes = {part: [draw(st.integers(1, 4)) for _ in names] for part in ("train", "val", "test")}
    return names, {
        part: draw(
            st.permutations(
                [[f"class {k}/{part}_{n}.jpg", k, names[k]] for k, size in enumerate(sizes[part]) for n in range(size)]
            )
        )
        for part in sizes
    }


@given(good_splits())
def test_a_good_split_is_read_as_it_is_written(made):
    names, split = made
    entries = parse(json.dumps(split).encode(), Path("split.json"))
    for part, lines in split.items():
        assert [(str(e.path), e.label) for e in entries[part]] == [(path, label) for path, label, _ in lines]
        assert all(e.classname == in_words(names[e.label]) for e in entries[part])


@pytest.mark.parametrize(
    ("part", "entry", "said"),
    [
        ("test", ["banded/1.jpg", 0, "dotted"], "test[2]: label 0 is 'dotted' here and 'banded' before"),
        ("train", ["x/1.jpg", 3, "dotted"], "nothing has label 2, yet 3 is there"),
        ("train", ["x/1.jpg", 2, "banded"], "'banded': names label 0 and label 2"),
        ("train", ["x/1.jpg", 2, "dotted"], "test: no picture of 1 of 3 classes ('dotted')"),
        ("test", ["x/1.jpg", 2, "dotted"], "train: no picture of 1 of 3 classes ('dotted')"),
        ("test", ["banded/banded_0001.jpg", 0, "banded"], "'banded/banded_0001.jpg': is in train and in test"),
        ("test", ["banded/./banded_0001.jpg", 0, "banded"], "is in train and in test"),
    ],
)
def test_labels_names_and_parts_must_agree(part, entry, said):
    split = {
        name: [[f"banded/banded_000{n}.jpg", 0, "banded"], [f"flecked/flecked_000{n}.jpg", 1, "flecked"]]
        for n, name in enumerate(("train", "val", "test"), 1)
    }
    split[part].append(entry)
    with pytest.raises(DatasetError) as caught:
        parse(json.dumps(split).encode(), Path("split.json"))
    assert said in caught.value.message
