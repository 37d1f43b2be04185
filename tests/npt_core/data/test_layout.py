from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.data.archive import SafeArchive
from npt_core.data.checks import Limits
from npt_core.data.layout import Layout, read_layout
from npt_core.errors import DatasetError
from tests.support.outcomes import outcome
from tests.support.zips import RawEntry, write_zip


@pytest.fixture
def layout(make_zip):
    def read(*paths: str, **tables: str) -> Layout:
        """The layout of files that all hold one byte, and tables by name (`labels_csv` is labels.csv)."""
        files = dict.fromkeys(paths, b"x")
        files |= {name.replace("__", "/").replace("_", "."): text.encode() for name, text in tables.items()}
        with SafeArchive.open(make_zip(files)) as archive:
            return read_layout(archive)

    return read


def told(layout: Layout) -> dict[str, tuple[str, str]]:
    return {sample.path: (sample.label, sample.split) for sample in layout.samples}


def left_out(layout: Layout) -> dict[str, str]:
    return {fault.path: fault.message for fault in layout.faults}


def test_class_folders(layout):
    found = layout("t-shirt/1.png", "737-800/2.png", "big_dog/a b.png")
    assert told(found) == {
        "t-shirt/1.png": ("t-shirt", "train"),
        "737-800/2.png": ("737-800", "train"),
        "big_dog/a b.png": ("big_dog", "train"),
    }
    assert found.kind == "folders"
    assert found.splits == ("train",)
    assert {label: info.name for label, info in found.classes.items()} == {
        "737-800": "737-800",
        "big_dog": "big dog",
        "t-shirt": "t-shirt",
    }


@pytest.mark.parametrize("wrapper", ["", "my pictures/", "train/", "test/"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_split_folders_with_and_without_a_wrapper(layout, wrapper, validation):
    found = layout(f"{wrapper}train/cat/1.png", f"{wrapper}{validation}/cat/2.png", f"{wrapper}test/dog/3.png")
    assert list(told(found).values()) == [("cat", "train"), ("cat", "val"), ("dog", "test")]
    assert found.splits == ("train", "val", "test")


def test_folders_are_splits_only_if_every_top_folder_is_one(layout):
    found = layout("train/1.png", "test/2.png", "car/3.png")
    assert set(told(found).values()) == {("train", "train"), ("test", "train"), ("car", "train")}


def test_a_lone_split_folder_is_a_split_and_no_wrapper(layout):
    assert set(told(layout("train/cat/1.png", "train/dog/2.png")).values()) == {("cat", "train"), ("dog", "train")}
    assert set(told(layout("test/cat/1.png", "test/dog/2.png")).values()) == {("cat", "test"), ("dog", "test")}


def test_one_wrapper_is_stripped_and_a_second_is_not(layout):
    assert told(layout("w/cat/1.png", "w/dog/2.png")) == {
        "w/cat/1.png": ("cat", "train"),
        "w/dog/2.png": ("dog", "train"),
    }
    with pytest.raises(DatasetError, match="No file in the data set has a label") as caught:
        layout("v/w/cat/1.png", "v/w/dog/2.png")
    assert [fault.path for fault in caught.value.faults] == ["v/w/cat/1.png", "v/w/dog/2.png"]
    assert {fault.message for fault in caught.value.faults} == {"lies 2 folders deep; accepted is class/picture"}


def test_a_lone_class_folder_is_no_wrapper(layout):
    assert told(layout("cat/1.png", "cat/2.png")) == {"cat/1.png": ("cat", "train"), "cat/2.png": ("cat", "train")}


def test_a_file_beside_the_wrapper_does_not_hide_it(layout):
    found = layout("README.md", "w/cat/1.png", "w/dog/2.png", classes_json='{"cat": {"name": "tabby"}}')
    assert [sample.label for sample in found.samples] == ["cat", "dog"]
    assert found.classes["cat"].name == "tabby"
    assert left_out(found) == {"README.md": "lies in no class folder, so it has no label"}


def test_loose_deep_and_nested_files_are_left_out_with_the_reason(layout):
    found = layout("cat/1.png", "dog/2.png", "loose.png", "inner.zip", "dog/small/3.png")
    assert len(found.samples) == 2
    assert left_out(found) == {
        "loose.png": "lies in no class folder, so it has no label",
        "inner.zip": "an archive inside the archive; it is not unpacked: put the class folders themselves in one zip",
        "dog/small/3.png": "lies 2 folders deep; accepted is class/picture",
    }
    found = layout("train/cat/1.png", "test/2.png", "train/cat/deep/3.png")
    assert left_out(found) == {
        "test/2.png": "lies in no class folder, so it has no label",
        "train/cat/deep/3.png": "lies 3 folders deep; accepted is split/class/picture",
    }


def test_empty_class_folders_are_classes_without_samples(make_zip):
    with SafeArchive.open(make_zip({"w/": b"", "w/cat/1.png": b"x", "w/dog/": b"", "w/dog/sub/": b""})) as archive:
        found = read_layout(archive)
    assert list(found.classes) == ["cat", "dog"]


def test_labels_are_composed_so_that_a_mac_and_a_linux_agree(layout):
    found = layout("train/e\u0301/1.png", "test/\u00e9/2.png")
    assert set(told(found).values()) == {("\u00e9", "train"), ("\u00e9", "test")}


def test_metadata_goes_before_labels_and_labels_before_folders(layout):
    metadata = '{"file_name": "a/1.png", "label": "M"}'
    labels = "filename,label\na/1.png,L"
    found = layout("a/1.png", metadata_jsonl=metadata, labels_csv=labels)
    assert (found.kind, told(found)) == ("metadata", {"a/1.png": ("M", "train")})
    assert found.notes == ("labels.csv was not used: metadata goes before it",)
    found = layout("a/1.png", labels_csv=labels)
    assert (found.kind, told(found)) == ("labels", {"a/1.png": ("L", "train")})
    assert told(layout("a/1.png")) == {"a/1.png": ("a", "train")}


def test_json_lines_go_before_csv(layout):
    found = layout(
        "1.png", metadata_jsonl='{"file_name": "1.png", "label": "J"}', metadata_csv="file_name,label\n1.png,C"
    )
    assert told(found) == {"1.png": ("J", "train")}
    assert found.notes == ("metadata.csv was not used: metadata.jsonl goes before it",)


def test_metadata_at_the_top_takes_splits_from_folders(layout):
    found = layout(
        "train/1.png", "validation/2.png", metadata_csv="file_name,label\ntrain/1.png,cat\n./validation/2.png,dog"
    )
    assert told(found) == {"train/1.png": ("cat", "train"), "validation/2.png": ("dog", "val")}


def test_metadata_in_each_split_is_relative_to_it(layout):
    found = layout(
        "w/train/1.png",
        "w/test/deep/1.png",
        w__train__metadata_csv="file_name,label\n1.png,cat",
        w__test__metadata_jsonl='{"file_name": "deep/1.png", "label": 7}',
    )
    assert told(found) == {"w/train/1.png": ("cat", "train"), "w/test/deep/1.png": ("7", "test")}
    assert left_out(found) == {}


def test_labels_csv_in_a_wrapper_is_relative_to_it(layout):
    found = layout("w/images/1.png", "w/images/2.png", w__labels_csv="filename,label\nimages/1.png,cat\nimages/2.png,7")
    assert told(found) == {"w/images/1.png": ("cat", "train"), "w/images/2.png": ("7", "train")}


def test_tables_and_files_that_do_not_agree_are_reported_with_their_line(layout):
    table = (
        "filename,label\n1.png,cat\n2.png,dog\n../1.png,cat\nnone.png,cat\n1.png,cat\n2.png,bird\n2.png,fox\n4.png,\n"
    )
    found = layout("1.png", "2.png", "3.png", "4.png", labels_csv=table)
    assert told(found) == {"1.png": ("cat", "train")}
    faults = left_out(found)
    assert "not in the archive" in faults["labels.csv:4"]
    assert "not in the archive" in faults["labels.csv:5"]
    assert faults["labels.csv:7"] == "2.png has two labels, dog and bird; it is left out"
    assert "is empty" in faults["labels.csv:9"]
    assert faults["3.png"] == "not named in labels.csv, so it has no label"
    assert faults.keys() == {"labels.csv:4", "labels.csv:5", "labels.csv:7", "labels.csv:9", "3.png", "4.png"}


def test_names_in_tables_match_however_accents_are_written(layout):
    found = layout("e\u0301.png", labels_csv="filename,label\n\u00e9.png,cat")
    assert told(found) == {"e\u0301.png": ("cat", "train")}


def test_words_for_no_class_are_noted(layout):
    found = layout("cat/1.png", "dog/1.png", classes_json='{"bird": {"name": "x"}, "cat": {"prompts": ["a", "b"]}}')
    assert found.notes == ("classes.json names bird, and no class is called that",)
    assert found.classes["cat"].phrasings == ("a", "b")
    assert found.classes["dog"].phrasings == ("dog",)


def test_an_empty_data_set_says_so(make_zip):
    for files in ({}, {"a/": b""}, {".DS_Store": b"x", "__MACOSX/y": b"x"}):
        with SafeArchive.open(make_zip(files)) as archive, pytest.raises(DatasetError, match="is empty"):
            read_layout(archive)


def test_tables_over_the_limit_or_damaged_are_refused(make_zip, make_raw):
    path = make_zip({"1.png": b"x", "labels.csv": b"filename,label\n1.png,cat"})
    with (
        SafeArchive.open(path, Limits(table_bytes=10)) as archive,
        pytest.raises(DatasetError, match="10 are accepted"),
    ):
        read_layout(archive)
    raw = make_raw(RawEntry(b"1.png", b"x"), RawEntry(b"labels.csv", b"filename,label\n1.png,cat", crc=1))
    with SafeArchive.open(raw) as archive, pytest.raises(Exception, match=r"labels\.csv: damaged"):
        read_layout(archive)


part = st.text("ab é", min_size=1, max_size=3).filter(str.strip)
tops = st.sampled_from(["train", "test", "valid", "w", "cat"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(part | tops, min_size=1, max_size=4), min_size=1, max_size=8), st.booleans())
def test_every_file_is_a_sample_or_is_reported(tmp_path_factory, paths, wrapped):
    names = {("w/" if wrapped else "") + "/".join(parts) + ".png" for parts in paths}
    path = write_zip(tmp_path_factory.getbasetemp() / "layout.zip", dict.fromkeys(sorted(names), b"x"))
    with SafeArchive.open(path) as archive:
        found = outcome(lambda: read_layout(archive), DatasetError)
        if isinstance(found, DatasetError):
            assert {fault.path for fault in found.faults} == names
        else:
            assert {sample.path for sample in found.samples} | set(left_out(found)) == names
            assert not {sample.path for sample in found.samples} & set(left_out(found))
            assert {sample.label for sample in found.samples} == set(found.classes)


def test_a_layout_can_be_shown_as_json(layout):
    found = layout("cat/1.png", "dog/1.png", ".DS_Store")
    assert json.dumps([found.kind, found.skipped, found.notes, found.samples])
    assert found.skipped == {"dotfiles": 1}
