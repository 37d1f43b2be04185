from __future__ import annotations

import hashlib
import io
import json
import random
import stat
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.data.archive import Limits
from npt_core.data.dataset import Dataset
from npt_core.data.images import decode_image
from npt_core.errors import (
    ArchiveError,
    ArchiveTooLargeError,
    Cancelled,
    DatasetError,
    Fault,
    ImageError,
)
from tests.support.outcomes import outcome
from tests.support.zips import RawEntry, classes, picture, png_header, write_zip


def broken(number: int = 0) -> bytes:
    """A picture whose header is good and whose pixels are cut."""
    return picture(number, size=(64, 64))[:-25]


def raised(path: Path, **options: object) -> DatasetError | ArchiveError:
    with pytest.raises((DatasetError, ArchiveError)) as caught:
        Dataset.from_archive(path, **options)  # type: ignore[arg-type]
    return caught.value


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_samples_have_label_split_hash_and_size(make_zip):
    files = classes("cat", "dog", prefix="w/train/") | classes("cat", images=1, prefix="w/test/")
    dataset = Dataset.from_archive(make_zip(files))
    assert {sample.path for sample in dataset.samples} == files.keys()
    for sample in dataset.samples:
        assert sample.sha256 == hashlib.sha256(files[sample.path]).hexdigest()
        assert sample.size == len(files[sample.path])
        assert dataset.read(sample) == files[sample.path]
    assert dataset.labels == ("cat", "dog")
    assert dataset.counts == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 1, "dog": 0}}
    assert [(split, len(samples)) for split, samples in dataset.splits.items()] == [("train", 6), ("test", 1)]
    assert (dataset.imbalance, dataset.faults, dataset.left_out, dataset.warnings) == (1.0, (), 0, ())
    assert len(dataset) == 7


def test_the_id_is_the_hash_of_the_sorted_triples(make_zip):
    files = classes("cat", "dog")
    triples = sorted(("train", name.split("/")[0], hashlib.sha256(data).hexdigest()) for name, data in files.items())
    expected = hashlib.sha256("".join(f"{s}\0{label}\0{sha}\n" for s, label, sha in triples).encode()).hexdigest()
    assert Dataset.from_archive(make_zip(files)).id == expected


def test_the_same_pictures_zipped_twice_are_one_data_set(make_zip, tmp_path):
    files = classes("cat", "dog")
    first = Dataset.from_archive(make_zip(files))
    renamed = {f"my zip/train/{name.replace('.png', ' copy.PNG')}": data for name, data in reversed(files.items())}
    second = Dataset.from_archive(make_zip(renamed | {"my zip/.DS_Store": b"x"}))
    table = "filename,label\n" + "\n".join(f"{i}.png,{name.split('/')[0]}" for i, name in enumerate(files))
    third = {f"{i}.png": data for i, data in enumerate(files.values())} | {"labels.csv": table.encode()}
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    fourth = Dataset.from_folder(tmp_path / "folder")
    assert {first.id, second.id, Dataset.from_archive(make_zip(third)).id, fourth.id} == {first.id}
    order = [(sample.label, sample.sha256) for sample in first.samples]
    assert [(sample.label, sample.sha256) for sample in second.samples] == order


def test_another_label_split_picture_or_copy_is_another_data_set(make_zip):
    files = classes("cat", "dog")
    moved = dict(files)
    moved["dog/moved.png"] = moved.pop("cat/2.png")
    others = [
        files,
        moved,
        {f"train/{name}": data for name, data in files.items()} | {"test/cat/9.png": picture(9)},
        files | {"cat/2.png": picture(99)},
        files | {"cat/copy.png": files["cat/0.png"]},
    ]
    assert len({Dataset.from_archive(make_zip(other)).id for other in others}) == len(others)


def test_classes_json_gives_the_words(make_zip):
    words = {"big_dog": {"prompts": ["a dog", "a hound"]}}
    dataset = Dataset.from_archive(make_zip(classes("cat", "big_dog") | {"classes.json": json.dumps(words).encode()}))
    assert dataset.prompts["big_dog"].name == "big dog"
    assert dataset.prompts["big_dog"].phrasings == ("a dog", "a hound")
    assert list(dataset.prompts) == ["big_dog", "cat"]


# --- a few bad files among good ones ---------------------------------------------------------------------------------


def test_bad_files_among_good_ones_are_left_out_and_listed(make_raw):
    good = [RawEntry(name.encode(), data) for name, data in classes("cat", "dog").items()]
    bad = {
        "cat/notes.txt": b"my notes",
        "cat/empty.png": b"",
        "cat/cut.png": picture(5)[:20],
        "cat/giant.png": png_header(90_000, 90_000),
        "cat/page.jpg": b"<html>",
        "dog/inner.zip": b"PK\x03\x04....",
    }
    entries = [*good, *[RawEntry(name.encode(), data) for name, data in bad.items()]]
    dataset = Dataset.from_archive(make_raw(*entries, RawEntry(b"dog/crc.png", picture(6), crc=1)))
    assert len(dataset) == 6
    faults = {fault.path: fault.message for fault in dataset.faults}
    assert faults.keys() == {*bad, "dog/crc.png"}
    assert "text" in faults["cat/notes.txt"]
    assert "empty" in faults["cat/empty.png"]
    assert "corrupt or truncated" in faults["cat/cut.png"]
    assert "20,000" in faults["cat/giant.png"]
    assert "HTML" in faults["cat/page.jpg"]
    assert "nested" in faults["dog/inner.zip"]
    assert "checksum" in faults["dog/crc.png"]
    assert dataset.left_out == 7
    assert "cat/notes.txt: not an accepted image" in "\n".join(dataset.warnings)


def test_a_class_without_a_readable_picture_is_left_out_and_named(make_zip):
    files = classes("cat", "dog") | {"fox/1.png": b"?", "empty/": b"", "owl/a.txt": b"text"}
    dataset = Dataset.from_archive(make_zip(files))
    assert dataset.labels == ("cat", "dog")
    messages = {fault.path: fault.message for fault in dataset.faults}
    assert {path for path, message in messages.items() if "no readable picture" in message} == {"empty", "fox", "owl"}


def test_a_class_only_seen_in_test_is_left_out_with_its_pictures(make_zip):
    files = classes("cat", "dog", prefix="train/") | classes("cat", "fox", images=2, prefix="test/")
    dataset = Dataset.from_archive(make_zip(files))
    assert dataset.counts["test"] == {"cat": 2, "dog": 0}
    (fault,) = dataset.faults
    assert fault == Fault(
        "fox", "the class has no readable training picture; it and its 2 pictures in other splits are left out"
    )


def test_many_bad_files_are_counted_not_listed(make_zip):
    files = classes("cat", "dog") | {f"cat/{i}.txt": b"text" for i in range(130)}
    dataset = Dataset.from_archive(make_zip(files))
    assert dataset.left_out == 130
    assert len(dataset.faults) == 101
    assert len(dataset.to_manifest()["left_out"]["faults"]) == 100


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "said", "paths"),
    [
        ({}, "is empty", []),
        (classes("cat"), "the only class with readable training pictures is cat", []),
        (classes("cat") | {"dog/1.png": b"?"}, "the only class", ["dog/1.png", "dog"]),
        ({"a/1.txt": b"text", "b/2.pdf": b"%PDF"}, "no readable picture", ["a/1.txt", "b/2.pdf", "a", "b"]),
        (classes("cat", "dog", prefix="test/"), "all readable pictures are in the split test", ["cat", "dog"]),
        ({"1.png": picture(), "inner.zip": b"PK"}, "No file in the data set has a label", ["1.png", "inner.zip"]),
    ],
)
def test_a_data_set_that_cannot_be_learned_from_is_refused_with_every_fault(make_zip, files, said, paths):
    error = raised(make_zip(files))
    assert isinstance(error, DatasetError)
    assert said in error.message
    assert [fault.path for fault in error.faults] == paths


def test_a_hostile_archive_is_refused_with_its_bad_pictures_named_too(make_raw):
    good = [RawEntry(name.encode(), data) for name, data in classes("cat", "dog").items()]
    lie = RawEntry(b"cat/lie.png", picture(7) + bytes(99), size=60)
    others = [RawEntry(b"../x"), RawEntry(b"cat/l", mode=stat.S_IFLNK), RawEntry(b"cat/t.txt", b"text")]
    error = raised(make_raw(*good, *others, lie))
    assert isinstance(error, ArchiveError)
    assert not isinstance(error, ArchiveTooLargeError)
    assert [fault.path for fault in error.faults] == ["../x", "cat/l", "cat/lie.png", "cat/t.txt"]


@pytest.mark.parametrize("files", [{}, {"cat/1.png": picture()}, {"1.png": b"?"}])
def test_a_hostile_archive_that_is_also_useless_is_called_hostile(make_raw, files):
    error = raised(make_raw(RawEntry(b"../x"), *[RawEntry(name.encode(), data) for name, data in files.items()]))
    assert isinstance(error, ArchiveError)
    assert error.faults[0].path == "../x"
    assert len(error.faults) > 1


def test_limits_hold(make_zip):
    path = make_zip(classes("cat", "dog"))
    assert isinstance(raised(path, limits=Limits(entries=5)), ArchiveTooLargeError)
    assert isinstance(raised(path, limits=Limits(total_bytes=100)), ArchiveTooLargeError)


def test_a_refused_archive_is_closed(make_zip):
    path = make_zip(classes("cat"))
    before = {Path(f"/proc/self/fd/{fd}").resolve() for fd in open_files()}
    raised(path)
    after = {Path(f"/proc/self/fd/{fd}").resolve() for fd in open_files()}
    assert path.resolve() not in after - before


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("needs /proc")
    return [item.name for item in folder.iterdir()]


# --- progress and stopping -------------------------------------------------------------------------------------------


def test_progress_is_told_and_ends_at_the_end(make_zip):
    told: list[tuple[int, int]] = []
    Dataset.from_archive(make_zip(classes("cat", "dog")), on_progress=lambda done, total: told.append((done, total)))
    assert told == [*((done, 6) for done in range(6)), (6, 6)]


def test_work_stops_when_it_is_asked_to(make_zip):
    class Stop:
        asked = 0

        def check(self) -> None:
            self.asked += 1
            if self.asked == 2:
                raise Cancelled("cancelled")

    control = Stop()
    with pytest.raises(Cancelled):
        Dataset.from_archive(make_zip(classes("cat", "dog", images=30)), control=control)
    assert control.asked == 2


def test_memory_does_not_grow_with_the_bytes_of_the_pictures(make_zip):
    """The peak is a few files' worth, however many there are."""
    size = 1024**2
    padding = random.Random(0).randbytes(size)
    path = make_zip({name: data + padding for name, data in classes("cat", "dog", images=20).items()})
    tracemalloc.start()
    try:
        Dataset.from_archive(path).close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 40 * size
    assert peak < 8 * size


# --- manifest --------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(make_zip) -> tuple[Dataset, Path]:
    words = json.dumps({"cat": {"name": "tabby", "prompts": ["x", "y"]}, "none": {}}).encode()
    files = classes("cat", "dög") | {"classes.json": words, "cat/t.txt": b"t", ".x": b"", "cat/cut.png": broken()}
    path = make_zip(files)
    return Dataset.from_archive(path), path


def test_a_data_set_comes_back_from_its_manifest(made):
    dataset, path = made
    stored = json.dumps(dataset.to_manifest())
    again = Dataset.from_manifest(json.loads(stored), path)
    assert (again.id, again.samples, again.prompts) == (dataset.id, dataset.samples, dataset.prompts)
    assert again.describe() == dataset.describe()
    assert json.dumps(again.to_manifest()) == stored
    assert [again.read(sample) for sample in again.samples] == [dataset.read(sample) for sample in dataset.samples]


def test_a_manifest_opens_the_archive_only_when_a_picture_is_read(made, tmp_path):
    dataset, _ = made
    again = Dataset.from_manifest(dataset.to_manifest(), tmp_path / "gone.zip")
    assert again.labels == ("cat", "dög")
    with pytest.raises(FileNotFoundError):
        again.read(again.samples[0])


def test_a_folder_comes_back_from_its_manifest(tmp_path):
    for name, data in classes("cat", "dog").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    dataset = Dataset.from_folder(tmp_path)
    again = Dataset.from_manifest(dataset.to_manifest(), tmp_path)
    assert again.open_image(again.samples[0]).size == (8, 6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "has version 1; this release reads 2"),
        ({"version": None}, "has version None"),
        ({"samples": [["a", 5, 0, "00", 1, 0, ""]]}, "damaged"),
        ({"samples": [["a", 0, 0, "00", 1, 1, ""]]}, "more than 1 archive"),
        ({"samples": [["a", 0, 0, "00", 1, 0, ""]]}, "do not have the id"),
        ({"classes": [{"label": "x"}]}, "damaged"),
        ({"skipped": []}, "damaged"),
        ({"left_out": None}, "damaged"),
        ({"id": "0" * 64}, "do not have the id"),
    ],
)
def test_manifests_of_another_version_or_damaged_are_refused(made, change, said):
    dataset, path = made
    with pytest.raises(DatasetError, match=said):
        Dataset.from_manifest(dataset.to_manifest() | change, path)


# --- pixels ----------------------------------------------------------------------------------------------------------


def test_pictures_open_from_many_threads(made):
    dataset, _ = made
    good = [sample for sample in dataset.samples if not sample.path.endswith("cut.png")]
    with ThreadPoolExecutor(8) as pool:
        pixels = list(pool.map(lambda sample: np.asarray(dataset.open_image(sample)).copy(), good * 20))
    for sample, found in zip(good * 20, pixels, strict=True):
        assert np.array_equal(found, np.asarray(decode_image(io.BytesIO(dataset.read(sample)))))


def test_a_picture_that_fails_late_names_itself_and_can_be_left_out(made):
    dataset, _ = made
    (bad,) = [sample for sample in dataset.samples if sample.path == "cat/cut.png"]
    with pytest.raises(ImageError, match=r"cat/cut\.png: corrupt or truncated") as caught:
        dataset.open_image(bad)
    rest = dataset.without(caught.value.faults)
    assert len(rest) == len(dataset) - 1
    assert rest.faults[-1].path == "cat/cut.png"
    assert "truncated" in rest.faults[-1].message
    assert rest.left_out == dataset.left_out + 1
    assert rest.id != dataset.id
    assert len(dataset.faults) == 1
    assert rest.open_image(rest.samples[0]).mode == "RGB"


def test_leaving_out_a_whole_class_drops_it_and_leaving_one_class_is_refused(make_zip):
    dataset = Dataset.from_archive(make_zip(classes("cat", "dog", "fox", images=2)))
    rest = dataset.without(["fox/0.png", "fox/1.png"])
    assert rest.labels == ("cat", "dog")
    assert [fault.path for fault in rest.faults] == ["fox/0.png", "fox/1.png", "fox"]
    with pytest.raises(DatasetError, match="the only class with readable training pictures is cat") as caught:
        rest.without(["dog/0.png", Fault("dog/1.png", "cut")])
    assert [fault.path for fault in caught.value.faults][-3:] == ["dog/0.png", "dog/1.png", "dog"]
    assert rest.without([]).id == rest.id


def test_a_picture_that_rots_on_disk_is_a_picture_error(make_zip):
    path = make_zip(classes("cat", "dog"))
    dataset = Dataset.from_archive(path)
    manifest = dataset.to_manifest()
    dataset.close()
    data = bytearray(path.read_bytes())
    at = data.index(b"\x89PNG") + 40 if b"\x89PNG" in data else 60
    data[at] ^= 0xFF
    path.write_bytes(data)
    with Dataset.from_manifest(manifest, path) as again:
        failed = 0
        for sample in again.samples:
            image = outcome(lambda sample=sample: again.open_image(sample), ImageError)
            if isinstance(image, ImageError):
                failed += 1
                assert image.faults[0].path == sample.path
    assert failed == 1


# --- folders on disk -------------------------------------------------------------------------------------------------


def test_a_folder_is_read_like_a_zip(tmp_path):
    files = classes("cat", "dog") | {"cat/.DS_Store": b"x", ".git/a": b"", ".git/b/c": b"", "cat/notes.txt": b"text"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "fox").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "dog" / "bad\x1bname.png").write_bytes(picture(50))
    dataset = Dataset.from_folder(str(tmp_path))
    assert len(dataset) == 6
    assert dataset.skipped == {"dotfiles": 3, "linked folders": 1}
    assert {fault.path for fault in dataset.faults} == {"cat/notes.txt", "dog/gone.png", r"dog/bad\x1bname.png", "fox"}


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        Dataset.from_folder(tmp_path / "none")


@settings(max_examples=40, deadline=None)
@given(
    files=st.lists(
        st.tuples(
            st.sampled_from(["train/", "test/", "val/"]),
            st.sampled_from(["cat", "dog", "owl"]),
            st.one_of(st.integers(0, 9), st.just(None)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_file_is_learned_from_or_reported(tmp_path_factory, files):
    contents = {
        f"{split}{label}/{i}.png": b"not a picture" if number is None else picture(number)
        for i, (split, label, number) in enumerate(files)
    }
    path = write_zip(tmp_path_factory.getbasetemp() / "dataset.zip", contents)
    dataset = outcome(lambda: Dataset.from_archive(path), DatasetError)
    if isinstance(dataset, DatasetError):
        learnable = {label for split, label, number in files if split == "train/" and number is not None}
        assert len(learnable) < 2
        assert {f.path for f in dataset.faults} >= {name for name, data in contents.items() if data == b"not a picture"}
        return
    reported = {fault.path for fault in dataset.faults}
    samples = {sample.path for sample in dataset.samples}
    for name, data in contents.items():
        assert (name in samples) != (data == b"not a picture" or name.split("/")[1] in reported)
    assert Dataset.from_manifest(json.loads(json.dumps(dataset.to_manifest())), path).samples == dataset.samples
    dataset.close()
