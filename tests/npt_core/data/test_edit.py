"""Edits of data sets, against a plain model of what they should come to."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.data import Dataset, Limits
from npt_core.data.edit import Additions, Edit, EditError, edit_dataset
from npt_core.errors import ArchiveError, ArchiveTooLargeError, DatasetError
from tests.support.zips import classes, picture, write_zip


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parent_of(tmp_path: Path, files: Mapping[str, bytes], name: str = "parent.zip") -> Dataset:
    return Dataset.from_archive(write_zip(tmp_path / name, files))


def adding(tmp_path: Path, files: Mapping[str, bytes], name: str = "more.zip") -> Additions:
    return Additions.from_archive(write_zip(tmp_path / name, files))


def triples(dataset: Dataset) -> Counter[tuple[str, str, str]]:
    return Counter((s.split, s.label, s.sha256) for s in dataset.samples)


def test_pictures_are_removed_relabelled_and_added_and_the_parent_stays(tmp_path: Path) -> None:
    files = classes("cat", "dog")
    parent = parent_of(tmp_path, files)
    before = parent.to_manifest()
    more = {"dog/new.png": picture(900), "owl/0.png": picture(901)}
    edit = Edit(("cat/0.png",), {"cat/1.png": "dog", "dog/2.png": "owl"})
    made = edit_dataset(parent, edit, adding(tmp_path, more))
    dataset = made.dataset
    assert dataset.counts == {"train": {"cat": 1, "dog": 4, "owl": 2}}
    assert {s.path: dataset.read(s) for s in dataset.samples} == {
        **{path: data for path, data in files.items() if path != "cat/0.png"},
        **more,
    }
    assert parent.to_manifest() == before
    assert dataset.id != parent.id
    assert made.change.counts == {"removed": 1, "relabelled": 2, "added": 2, "known": 0}
    assert made.change.relabelled[0] == {
        "path": "cat/1.png",
        "label": "dog",
        "was": "cat",
        "split": "train",
        "sha256": sha(files["cat/1.png"]),
    }
    json.dumps(made.change.to_dict())


def test_the_id_is_that_of_the_same_pictures_uploaded_whole(tmp_path: Path) -> None:
    files = classes("cat", "dog")
    made = edit_dataset(parent_of(tmp_path, files), Edit(("dog/0.png",), {"cat/0.png": "dog"}))
    whole = {path: data for path, data in files.items() if path not in ("dog/0.png", "cat/0.png")}
    assert made.dataset.id == parent_of(tmp_path, whole | {"dog/x.png": files["cat/0.png"]}, "whole.zip").id


def test_a_hash_names_every_copy_and_case_does_not_matter(tmp_path: Path) -> None:
    files = classes("cat", "dog") | {"dog/copy.png": picture(1)}  # the first of cat
    made = edit_dataset(parent_of(tmp_path, files), Edit((sha(picture(1)).upper(),)))
    assert {one["path"] for one in made.change.removed} == {"cat/0.png", "dog/copy.png"}


def test_a_name_in_another_unicode_form_is_found(tmp_path: Path) -> None:
    files = classes("cat", "dog") | {"cat/\u00e9.png": picture(77)}
    made = edit_dataset(parent_of(tmp_path, files), Edit(("cat/e\u0301.png",)))
    assert made.change.counts["removed"] == 1


def test_every_fault_of_an_edit_is_listed_and_nothing_is_changed(tmp_path: Path) -> None:
    parent = parent_of(tmp_path, classes("cat", "dog"))
    edit = Edit(
        ("cat/0.png", "cat/none.png", "../../etc/passwd"),
        {"cat/0.png": "dog", "cat/1.png": "x\x00y", "f" * 64: "dog", "cat/2.png": "dog", sha(picture(3)): "owl"},
    )
    with pytest.raises(EditError) as caught:
        edit_dataset(parent, edit)
    faults = {(fault.path, fault.message.split(";")[0].split(",")[0]) for fault in caught.value.faults}
    assert faults == {
        ("cat/none.png", "is no picture of the data set"),
        ("../../etc/passwd", "is no picture of the data set"),
        ("cat/0.png", "is to be removed and relabelled"),
        ("cat/1.png", "the new label has a NUL character"),
        ("f" * 64, "is no picture of the data set"),
        (sha(picture(3)), "has two new labels"),
    }


def test_an_empty_edit_and_one_that_leaves_nothing_to_learn_are_refused(tmp_path: Path) -> None:
    parent = parent_of(tmp_path, classes("cat", "dog", images=1))
    with pytest.raises(EditError, match="empty"):
        edit_dataset(parent, Edit())
    with pytest.raises(DatasetError, match="only class"):
        edit_dataset(parent, Edit(("cat/0.png",)))


def test_a_class_that_lost_every_picture_is_gone_without_a_complaint(tmp_path: Path) -> None:
    made = edit_dataset(parent_of(tmp_path, classes("cat", "dog", "owl", images=1)), Edit(("owl/0.png",)))
    assert made.dataset.labels == ("cat", "dog")
    assert made.dataset.faults == ()


def test_what_is_there_already_is_not_added_again(tmp_path: Path) -> None:
    files = classes("cat", "dog")
    more = {
        "cat/other-name.png": files["cat/0.png"],
        "dog/same-picture.png": files["cat/1.png"],
        "cat/n.png": picture(9),
    }
    made = edit_dataset(parent_of(tmp_path, files), Edit(), adding(tmp_path, more))
    assert made.change.counts == {"removed": 0, "relabelled": 0, "added": 2, "known": 1}
    assert {one["path"] for one in made.change.added} == {"dog/same-picture.png", "cat/n.png"}


def test_a_name_that_is_taken_gets_a_number_and_still_reads_its_own_picture(tmp_path: Path) -> None:
    files = classes("cat", "dog")
    made = edit_dataset(parent_of(tmp_path, files), Edit(), adding(tmp_path, {"cat/0.png": picture(501)}))
    again = edit_dataset(made.dataset, Edit(), adding(tmp_path, {"cat/0.png": picture(502)}, "third.zip"))
    by_path = {s.path: again.dataset.read(s) for s in again.dataset.samples}
    assert by_path["cat/0.png"] == files["cat/0.png"]
    assert by_path["cat/0~2.png"] == picture(501)
    assert by_path["cat/0~3.png"] == picture(502)


def test_additions_may_be_one_class_or_a_test_part_alone(tmp_path: Path) -> None:
    parent = parent_of(tmp_path, classes("cat", "dog"))
    made = edit_dataset(parent, Edit(), adding(tmp_path, {"test/cat/t.png": picture(700)}))
    assert made.dataset.counts["test"] == {"cat": 1, "dog": 0}
    orphan = edit_dataset(parent, Edit(), adding(tmp_path, {"test/owl/t.png": picture(701)}, "owl.zip"))
    assert [fault.path for fault in orphan.dataset.faults] == ["owl"]


def test_bad_additions_are_refused_or_left_out_as_in_any_upload(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        adding(tmp_path, {"cat/a.png": picture(1), "../b.png": b"x"})
    with pytest.raises(DatasetError, match="no readable picture"):
        adding(tmp_path, {"cat/a.png": b"no picture"}, "none.zip")
    more = adding(tmp_path, {"cat/a.png": picture(60), "cat/b.png": b"no picture", ".DS_Store": b""}, "half.zip")
    made = edit_dataset(parent_of(tmp_path, classes("cat", "dog")), Edit(), more)
    assert [fault.path for fault in made.dataset.faults] == ["cat/b.png"]
    assert made.dataset.skipped == {"dotfiles": 1}


def test_words_of_the_parent_stay_and_those_of_the_additions_come_first(tmp_path: Path) -> None:
    words = b'{"cat": {"name": "tabby"}, "dog": {"name": "hound"}}'
    parent = parent_of(tmp_path, classes("cat", "dog") | {"classes.json": words})
    more = adding(
        tmp_path, {"cat/a.png": picture(60), "dog/a.png": picture(61), "classes.json": b'{"cat": {"name": "lion"}}'}
    )
    prompts = edit_dataset(parent, Edit(), more).dataset.prompts
    assert (prompts["cat"].name, prompts["dog"].name) == ("lion", "hound")


def test_a_data_set_cannot_grow_past_the_limits(tmp_path: Path) -> None:
    parent = parent_of(tmp_path, classes("cat", "dog"))
    more = adding(tmp_path, {"cat/a.png": picture(60)})
    with pytest.raises(ArchiveTooLargeError, match="7 pictures; 6"):
        edit_dataset(parent, Edit(), more, limits=Limits(entries=6))
    with pytest.raises(ArchiveTooLargeError, match="bytes of pictures"):
        edit_dataset(parent, Edit(), more, limits=Limits(total_bytes=100))
    assert edit_dataset(parent, Edit(("dog/0.png",)), more, limits=Limits(entries=6)).change.counts["added"] == 1


def test_archives_that_no_picture_needs_any_more_are_let_go(tmp_path: Path) -> None:
    first, second = classes("cat", "dog"), {"cat/n.png": picture(900), "dog/n.png": picture(901)}
    made = edit_dataset(parent_of(tmp_path, first), Edit(), adding(tmp_path, second))
    assert made.archives == (0, 1)
    rest = edit_dataset(made.dataset, Edit(tuple(first)))
    assert rest.archives == (1,)
    assert {s.path: rest.dataset.read(s) for s in rest.dataset.samples} == second
    again = Dataset.from_manifest(rest.dataset.to_manifest(), tmp_path / "more.zip")
    assert {s.path: again.read(s) for s in again.samples} == second


def test_a_manifest_that_speaks_of_archives_that_are_not_given_is_refused(tmp_path: Path) -> None:
    made = edit_dataset(
        parent_of(tmp_path, classes("cat", "dog")), Edit(), adding(tmp_path, {"cat/n.png": picture(900)})
    )
    manifest = made.dataset.to_manifest()
    with pytest.raises(DatasetError, match="more than 1 archive"):
        Dataset.from_manifest(manifest, tmp_path / "parent.zip")
    dataset = Dataset.from_manifest(manifest, tmp_path / "parent.zip", tmp_path / "more.zip")
    assert dataset.id == made.dataset.id
    assert all(sha(dataset.read(sample)) == sample.sha256 for sample in dataset.samples)
    dataset.close()
    assert dataset.read(dataset.samples[0])  # opened again


LABELS = ("cat", "dog", "owl")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_chain_of_edits_comes_to_what_a_plain_model_says(data: st.DataObject, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("chain")
    files = classes(*LABELS, images=4)
    dataset = parent_of(folder, files)
    model = {path: (path.split("/")[0], content) for path, content in files.items()}
    for step in range(data.draw(st.integers(1, 4))):
        names = st.sampled_from(sorted(model))
        remove = data.draw(st.sets(names, max_size=3))
        movable = sorted(set(model) - remove)
        relabel = data.draw(st.dictionaries(st.sampled_from(movable), st.sampled_from(LABELS), max_size=3))
        seeds = data.draw(st.sets(st.integers(2000, 2010), max_size=3))
        more = {f"{LABELS[seed % 3]}/{seed}.png": picture(seed) for seed in seeds}
        if not (remove or relabel or more):
            continue
        expected = {
            path: (relabel.get(path, label), content) for path, (label, content) in model.items() if path not in remove
        }
        there = set(expected.values())
        for path, content in more.items():
            label = path.split("/")[0]
            if (label, content) not in there:
                name = path
                while name in expected:
                    number = int(name.split("~")[1][:-4]) + 1 if "~" in name else 2
                    name = f"{path[:-4]}~{number}.png"
                expected[name] = (label, content)
        if len({label for label, _ in expected.values()}) < 2:
            with pytest.raises(DatasetError):
                edit_dataset(
                    dataset, Edit(tuple(remove), relabel), adding(folder, more, f"{step}.zip") if more else None
                )
            return
        made = edit_dataset(
            dataset, Edit(tuple(remove), relabel), adding(folder, more, f"{step}.zip") if more else None
        )
        dataset, model = made.dataset, expected
        assert {s.path: (s.label, dataset.read(s)) for s in dataset.samples} == model
        assert triples(dataset) == Counter(("train", label, sha(content)) for label, content in model.values())
        assert len(dataset.reader.archives) == len(made.archives)
