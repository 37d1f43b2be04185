from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.data.labels import ClassInfo
from npt_core.data.names import label_fault, nfc
from npt_core.data.tables import parse_classes, parse_table
from npt_core.errors import DatasetError
from tests.support.outcomes import outcome


def metadata(text: str | bytes, path: str = "metadata.jsonl"):
    data = text if isinstance(text, bytes) else text.encode()
    rows, faults = parse_table(data, path, file_column="file_name")
    return [(row.line, row.file, row.label) for row in rows], [(fault.path, fault.message) for fault in faults]


def test_json_lines_give_files_labels_and_line_numbers():
    rows, faults = metadata('\ufeff{"file_name": "a.png", "label": "cat", "more": 1}\n\n{"file_name": "b", "label": 3}')
    assert rows == [(1, "a.png", "cat"), (3, "b", "3")]
    assert faults == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"file_name": "b", "label": 1' + "0" * 5000 + "}", "not JSON"),
        ('{"label": "cat"}', "no file_name"),
        ('{"file_name": "", "label": "cat"}', "no file_name"),
        ('{"file_name": 4, "label": "cat"}', "no file_name"),
        ('{"file_name": "b", "label": null}', "no usable label"),
        ('{"file_name": "b", "label": true}', "no usable label"),
        ('{"file_name": "b", "label": 1.5}', "no usable label"),
        ('{"file_name": "b", "label": " "}', "the label of b is empty"),
        ('{"file_name": "b", "label": "a\\u202e"}', "reading direction"),
        ('{"file_name": "b", "label": "\\ud800"}', "not valid Unicode"),
    ],
)
def test_a_bad_line_concerns_only_itself(line, said):
    rows, faults = metadata('{"file_name": "a", "label": "cat"}\n' + line)
    assert rows == [(1, "a", "cat")]
    ((path, message),) = faults
    assert path == "metadata.jsonl:2"
    assert said in message


def test_csv_gives_the_same_with_quotes_spaces_and_other_columns():
    text = '\ufefffile_name, extra, label\r\n"a, b.png", 1, "say ""cat"""\r\n\r\nc.png,2, dog\r\nd.png\r\n'
    rows, faults = metadata(text, "metadata.csv")
    assert rows == [(2, "a, b.png", 'say "cat"'), (4, "c.png", "dog")]
    assert faults == [("metadata.csv:5", "d.png has no usable label; text or a whole number is accepted")]


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("metadata.csv", b"", "first line must name the columns"),
        ("metadata.csv", b"file_name,label\n", "holds no line"),
        ("metadata.csv", b"file;label\na;b", "semicolons"),
        ("metadata.csv", b"file,label\na,b", "no column file_name; found: file, label"),
        ("metadata.csv", b"a,b\na,b", "no column file_name and no column label"),
        ("metadata.csv", b'file_name,label\n"a,b\n', "not CSV"),
        ("metadata.csv", b'file_name,label\n"a"x,b\n', "not CSV"),
        ("metadata.csv", b"file_name,label\n" + b"x" * 200_000, "not CSV"),
        ("metadata.csv", "file_name,label\nü,b".encode("latin-1"), "not UTF-8"),
        ("metadata.csv", "file_name,label".encode("utf-16"), "not UTF-8"),
        ("metadata.jsonl", b"", "holds no line"),
        ("metadata.jsonl", b'{"file_name": "a", "text": "b"}', "no column label; found: file_name, text"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_what_was_found(path, text, said):
    with pytest.raises(DatasetError, match=path) as caught:
        metadata(text, path)
    assert said in caught.value.message
    assert [fault.path for fault in caught.value.faults] == [path]


@pytest.mark.parametrize(
    ("path", "head", "line"),
    [
        ("metadata.csv", "file_name,label\n", "a,b\n"),
        ("metadata.csv", "file_name,label\n", "\n"),
        ("metadata.csv", "file_name,label\n", '"a\nb",c\n'),
        ("metadata.jsonl", "", '{"file_name": "a", "label": "b"}\n'),
        ("metadata.jsonl", "", "\n"),
        ("metadata.jsonl", "", "not JSON\n"),
    ],
)
def test_more_lines_than_an_archive_may_have_are_refused_whatever_is_in_them(path, head, line):
    text = head + line * 100
    most = text.count("\n")
    parse_or_error = outcome(
        lambda: parse_table(text.encode(), path, file_column="file_name", max_lines=most), DatasetError
    )
    assert "lines" not in str(parse_or_error)
    with pytest.raises(DatasetError, match=f"more than {most - 1} lines"):
        parse_table(text.encode(), path, file_column="file_name", max_lines=most - 1)


def test_a_line_that_would_fill_the_memory_is_left_out():
    rows, faults = metadata('{"file_name": "a", "label": "b"}\n{"file_name": [' + "[]," * 400_000 + "0]}")
    assert rows == [(1, "a", "b")]
    assert [path for path, _ in faults] == ["metadata.jsonl:2"]
    assert "too long" in faults[0][1]


@pytest.mark.parametrize("before", [0, 5, 2**20 - 2, 2**20 - 1, 2**20])
def test_bytes_that_are_no_utf8_are_found_where_they_are(before):
    for bad in (b"\xff", b"\xe8\xb2\xff"):
        with pytest.raises(DatasetError, match=rf"\(byte {before:,}\)"):
            metadata(b"x" * before + bad + b"\n", "metadata.csv")


words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


@given(st.lists(st.tuples(words, words), min_size=1))
def test_what_a_csv_writer_writes_is_read_back(pairs):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerows([("filename", "label"), *pairs])
    rows, faults = parse_table(buffer.getvalue().encode(), "labels.csv", file_column="filename")
    good = [(file, nfc(label)) for file, label in pairs if file.strip() and label_fault(label) is None]
    assert [(row.file, row.label) for row in rows] == good
    assert faults.total == len(pairs) - len(good)


@given(st.lists(st.tuples(words, words), min_size=1))
def test_what_a_json_writer_writes_is_read_back(pairs):
    text = "\n".join(json.dumps({"file_name": file, "label": label}) for file, label in pairs)
    rows, faults = metadata(text)
    good = [(file, nfc(label)) for file, label in pairs if file.strip() and label_fault(label) is None]
    assert [(file, label) for _, file, label in rows] == good
    assert len(faults) == min(len(pairs) - len(good), 100)


@given(st.binary(max_size=200), st.sampled_from(["metadata.jsonl", "labels.csv"]))
def test_no_bytes_raise_anything_but_a_data_set_error(data, path):
    result = outcome(lambda: parse_table(data, path, file_column="filename"), DatasetError)
    assert result.faults if isinstance(result, DatasetError) else len(result) == 2


def test_classes_give_names_and_phrasings():
    data = {
        "cat": {"name": "tabby cat", "prompts": ["a cat", "a kitten", "a cat"]},
        "e\u0301": {},
        "big_dog": {"name": "dog"},
    }
    assert parse_classes(json.dumps(data).encode(), "classes.json") == {
        "cat": ClassInfo("cat", "tabby cat", ("a cat", "a kitten")),
        "\u00e9": ClassInfo("\u00e9", "\u00e9", ("\u00e9",)),
        "big_dog": ClassInfo("big_dog", "dog", ("dog",)),
    }


def test_every_fault_of_classes_is_listed():
    data = {
        "a": "cat",
        "b": {"name": ""},
        "c": {"prompts": []},
        "d": {"prompts": "cat"},
        "e": {"nom": "x"},
        "f": {"name": "x\u202e"},
        "g": {"prompts": ["x"] * 65},
        "h": {"prompts": ["x" * 301]},
        "ok": {"name": "x" * 300},
    }
    with pytest.raises(DatasetError, match="8 faults") as caught:
        parse_classes(json.dumps(data).encode(), "classes.json")
    assert [fault.path for fault in caught.value.faults] == [f"classes.json: {key}" for key in "abcdefgh"]


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'"x"'])
def test_classes_of_another_form_are_refused(data):
    with pytest.raises(DatasetError, match=r"classes\.json"):
        parse_classes(data, "classes.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(json_values)
def test_no_json_raises_anything_but_a_data_set_error(value):
    result = outcome(lambda: parse_classes(json.dumps(value).encode(), "classes.json"), DatasetError)
    assert result.faults if isinstance(result, DatasetError) else set(result) == {nfc(label) for label in value}
