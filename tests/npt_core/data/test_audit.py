from __future__ import annotations

import json

from npt_core.data.audit import audit_structure
from npt_core.data.dataset import Dataset
from npt_core.data.findings import MAX_PATHS, Finding
from tests.support.zips import classes, picture


def findings(path) -> dict[str, Finding]:
    with Dataset.from_archive(path) as dataset:
        found = audit_structure(dataset)
    json.dumps([finding.to_dict() for finding in found])
    assert [f.severity for f in found] == sorted((f.severity for f in found), reverse=True)
    return {finding.kind: finding for finding in found}


def test_a_sound_data_set_has_nothing_to_tell(make_zip):
    assert findings(make_zip(classes("cat", "dog", images=4))) == {}


def test_copies_within_a_class_across_classes_and_across_splits_are_told_apart(make_zip):
    base = classes("cat", "dog", images=4, prefix="train/") | classes("cat", "dog", images=2, prefix="test/")
    copy = picture(9000)
    cases = {
        "duplicate-in-class": ({"train/cat/x.png": copy, "train/cat/y.png": copy}, "info"),
        "duplicate-across-classes": ({"train/cat/x.png": copy, "train/dog/y.png": copy}, "warning"),
        "duplicate-across-splits": ({"train/cat/x.png": copy, "test/cat/y.png": copy}, "warning"),
    }
    for kind, (extra, severity) in cases.items():
        found = findings(make_zip(base | extra))
        assert found.keys() == {kind}
        assert found[kind].severity == severity
        assert set(found[kind].paths) == extra.keys()
        assert found[kind].message.startswith("1 picture ")


def test_what_was_left_out_and_passed_over_is_told(make_zip):
    found = findings(make_zip(classes("cat", "dog", images=4) | {"cat/a.txt": b"x", ".DS_Store": b"", "b.txt": b""}))
    assert found["left-out"].paths == ("b.txt", "cat/a.txt")
    assert found["left-out"].severity == "warning"
    assert "dotfiles (1)" in found["skipped"].message


def test_small_and_unequal_classes_are_told(make_zip):
    found = findings(make_zip(classes("cat", images=9) | classes("dog", images=3, prefix="")))
    assert found["tiny-class"].paths == ("dog",)
    assert found["imbalance"].paths == ("cat", "dog")
    assert "3.0 times" in found["imbalance"].message
    assert "imbalance" not in findings(make_zip(classes("cat", images=8) | classes("dog", images=3)))


def test_classes_called_by_the_same_words_are_told(make_zip):
    found = findings(make_zip(classes("big_dog", "big dog", "Big  Dog", "cat", images=4)))
    assert set(found["same-prompt-name"].paths) == {"big_dog", "big dog", "Big  Dog"}
    assert found["same-prompt-name"].severity == "warning"
    words = b'{"cat": {"name": "pet"}, "dog": {"prompts": ["a hound", "Pet"]}}'
    found = findings(make_zip(classes("cat", "dog", images=4) | {"classes.json": words}))
    assert found["same-prompt-name"].paths == ("cat", "dog")


def test_classes_missing_from_a_split_and_notes_are_told(make_zip):
    files = classes("cat", "dog", images=4, prefix="train/") | classes("cat", images=2, prefix="val/")
    found = findings(make_zip(files | {"classes.json": b'{"owl": {}}'}))
    assert found["class-not-in-split"].paths == ("dog",)
    assert "split val" in found["class-not-in-split"].message
    assert "owl" in found["note"].message


def test_paths_are_capped_and_counts_are_not(make_zip):
    copy = picture(9000)
    files = classes("cat", "dog", images=4) | {f"cat/copy{i}.png": copy for i in range(30)}
    files |= {f"cat/t{i}.txt": b"t" for i in range(30)}
    found = findings(make_zip(files))
    assert len(found["duplicate-in-class"].paths) == MAX_PATHS
    assert len(found["left-out"].paths) == MAX_PATHS
    assert found["left-out"].message.startswith("30 files")
