from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.data.faults import MAX_LISTED, FaultLog, plural
from npt_core.data.labels import ClassInfo, prompt_name
from npt_core.data.names import clean_path, collision_key, junk_kind, label_fault, path_fault, shown, text_fault


@pytest.mark.parametrize(
    ("label", "name"),
    [("german_shepherd", "german shepherd"), ("t-shirt", "t-shirt"), ("737-800", "737-800"), ("a  b", "a  b")],
)
def test_only_underscores_read_as_spaces(label, name):
    assert prompt_name(label) == name
    assert ClassInfo.from_label(label) == ClassInfo(label, name, (name,))


@pytest.mark.parametrize("label", ["cat", "貓", "naïve_Æ", "👩‍🚀", "<b>&amp;", "a/b", " x "])
def test_any_visible_text_is_a_label(label):
    assert label_fault(label) is None


@pytest.mark.parametrize("label", ["", "  ", "a\0b", "a\tb", "a\u202eb", "x" * 256, "\ud800", "a\u2029b"])
def test_labels_that_are_empty_long_or_invisible_are_not(label):
    assert label_fault(label)


@given(st.text())
def test_what_is_shown_is_never_invisible(text):
    assert text_fault(shown(text)) is None
    assert text_fault(shown(text).encode("utf-8").decode()) is None


@given(st.text(alphabet="ab./", max_size=30))
def test_clean_paths_are_stable_and_name_the_same_file(path):
    clean = clean_path(path)
    assert clean_path(clean) == clean
    assert [p for p in path.split("/") if p not in ("", ".")] == ([] if clean == "" else clean.split("/"))


@given(st.text(max_size=20))
def test_equal_on_some_file_system_means_one_key(name):
    assert collision_key(name) == collision_key(collision_key(name))
    if path_fault(name) is None and name.isascii():
        assert collision_key(name.upper()) == collision_key(name.lower())


def test_litter_is_known_by_any_part_of_the_path():
    kinds = {
        "__MACOSX/x": "__MACOSX",
        "a/__macosx/x": "__MACOSX",
        "a/.DS_Store": "dotfiles",
        ".git/a": "dotfiles",
        "a/Thumbs.db": "Thumbs.db",
        "a/.ipynb_checkpoints/b.png": ".ipynb_checkpoints",
        "a/b.png": None,
        "a/thumbs.db.png": None,
        "MACOSX/a": None,
    }
    assert {path: junk_kind(path) for path in kinds} == kinds


def test_a_log_keeps_a_hundred_and_counts_the_rest():
    log, other = FaultLog(), FaultLog()
    assert not log
    for i in range(MAX_LISTED + 20):
        other.add(str(i), "bad")
    log.add("first", "bad")
    log.merge(other)
    assert log.total == MAX_LISTED + 21
    faults = log.faults()
    assert len(faults) == MAX_LISTED + 1
    assert faults[0].path == "first"
    assert "21 more" in faults[-1].message


def test_counts_have_their_noun():
    assert [plural(n, "class", "classes") for n in (0, 1, 2000)] == ["0 classes", "1 class", "2,000 classes"]
