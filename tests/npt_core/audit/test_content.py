"""The whole audit on a tiny random backbone, which tells noise of different colours apart."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from npt_core.audit import ContentAudit, audit_content, content
from npt_core.audit.names import audit_names
from npt_core.data import ClassInfo, Dataset, Finding
from npt_core.data.findings import MAX_PATHS
from npt_core.errors import Cancelled
from npt_core.tuning.cache import MemoryFeatureCache
from npt_core.tuning.control import Progress
from npt_core.tuning.features import encode_dataset
from tests.support.pictures import COLOURS, picture, write_folder
from tests.support.zips import write_zip


def png(colour: str, seed: int, side: int = 48) -> bytes:
    out = io.BytesIO()
    picture(COLOURS[colour], seed, side).save(out, "PNG")
    return out.getvalue()


def jpeg(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "JPEG", quality=90)
    return out.getvalue()


def kinds(audit: ContentAudit) -> dict[str, Finding]:
    json.dumps([one.to_dict() for one in audit.findings])
    return {one.kind: one for one in audit.findings}


def base(prefix: str = "") -> dict[str, bytes]:
    return {
        f"{prefix}{colour}/{i}.png": png(colour, 100 * n + i)
        for n, colour in enumerate(("red", "green", "blue"))
        for i in range(8)
    }


def zipped(tmp_path: Path, files: dict[str, bytes]) -> Dataset:
    return Dataset.from_archive(write_zip(tmp_path / "set.zip", files))


def test_a_sound_data_set_has_nothing_to_tell_about_its_pictures(tmp_path: Path, backbone: Any) -> None:
    with zipped(tmp_path, base()) as dataset:
        found = kinds(audit_content(dataset, backbone))
    assert found.keys() <= {"class-names-alike"}  # random towers read all names alike


def test_near_duplicates_are_told_by_what_is_wrong_about_them(tmp_path: Path, backbone: Any) -> None:
    files = base("train/") | {f"test/{c}/t{i}.png": png(c, 900 + i) for c in ("red", "green", "blue") for i in range(3)}
    files |= {
        "train/red/copy.jpg": jpeg(files["train/red/0.png"]),
        "test/green/leak.jpg": jpeg(files["train/green/1.png"]),
        "train/red/wrong.jpg": jpeg(files["train/blue/2.png"]),
    }
    with zipped(tmp_path, files) as dataset:
        found = kinds(audit_content(dataset, backbone))
    within, split = found["near-duplicate"], found["near-duplicate-across-splits"]
    classes = found["near-duplicate-across-classes"]
    assert [set(f.items[0]["paths"]) for f in (within, split, classes)] == [
        {"train/red/0.png", "train/red/copy.jpg"},
        {"train/green/1.png", "test/green/leak.jpg"},
        {"train/blue/2.png", "train/red/wrong.jpg"},
    ]
    assert [(f.count, f.severity) for f in (within, split, classes)] == [(1, "info"), (1, "warning"), (1, "warning")]
    assert within.suggest == {"edit": {"remove": ["train/red/copy.jpg"]}}  # the PNG is the larger file
    assert split.suggest == {"edit": {"remove": ["test/green/leak.jpg"]}}
    assert classes.suggest is None


def test_a_wrong_label_is_doubted_with_the_class_it_looks_like(tmp_path: Path, backbone: Any) -> None:
    with zipped(tmp_path, base() | {"red/not-red.png": png("blue", 77)}) as dataset:
        doubted = kinds(audit_content(dataset, backbone))["likely-label-error"]
    assert doubted.paths == ("red/not-red.png",)
    assert doubted.suggest == {"edit": {"relabel": {"red/not-red.png": "blue"}}}
    assert doubted.items[0]["label"] == "red"
    assert 0.5 < doubted.items[0]["probability"] <= 1


def test_what_looks_like_nothing_else_is_an_outlier(tmp_path: Path, backbone: Any) -> None:
    out = io.BytesIO()
    Image.linear_gradient("L").rotate(45).save(out, "PNG")
    with zipped(tmp_path, base() | {"green/strange.png": out.getvalue()}) as dataset:
        strange = kinds(audit_content(dataset, backbone))["outlier"]
    assert strange.paths == ("green/strange.png",)
    assert strange.items[0]["times_the_median"] > 2


def test_a_picture_that_cannot_be_decoded_is_named_with_its_reason(tmp_path: Path, backbone: Any) -> None:
    with zipped(tmp_path, base() | {"red/cut.png": png("red", 5)[:-300]}) as dataset:
        audit = audit_content(dataset, backbone)
    bad = kinds(audit)["unreadable"]
    assert bad.paths == ("red/cut.png",)
    assert bad.items[0]["reason"]
    assert bad.suggest == {"edit": {"remove": ["red/cut.png"]}}
    assert audit.counters == {"images_encoded": 24, "images_cached": 0, "images_unreadable": 1}


def test_a_picture_with_two_labels_is_left_to_the_structure(tmp_path: Path, backbone: Any) -> None:
    twice = png("red", 50)
    with zipped(tmp_path, base() | {"red/twice.png": twice, "blue/twice.png": twice}) as dataset:
        assert "likely-label-error" not in kinds(audit_content(dataset, backbone))


def test_lists_are_capped_and_counts_are_not(tmp_path: Path, backbone: Any) -> None:
    files = base() | {f"red/c{i}.jpg": jpeg(png("red", 300 + i)) for i in range(25)}
    files |= {f"red/o{i}.png": png("red", 300 + i) for i in range(25)}
    with zipped(tmp_path, files) as dataset:
        near = kinds(audit_content(dataset, backbone))["near-duplicate"]
    assert near.count == 25
    assert len(near.paths) == len(near.items) == MAX_PATHS
    assert near.message.startswith("25 groups")


def test_features_and_hashes_are_looked_for_once(
    tmp_path: Path, backbone: Any, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = MemoryFeatureCache()
    first = audit_content(dataset, backbone, cache=cache)
    assert first.counters["images_encoded"] == 24
    opened = []
    real = dataset.open_image
    monkeypatch.setattr(dataset, "open_image", lambda *a, **k: opened.append(1) or real(*a, **k))
    again = audit_content(dataset, backbone, cache=cache)
    assert (again.counters["images_encoded"], again.counters["images_cached"], opened) == (0, 24, [])
    assert again.findings == first.findings


def test_pictures_that_a_tuning_encoded_are_decoded_for_their_hashes_alone(dataset: Dataset, backbone: Any) -> None:
    cache = MemoryFeatureCache()
    encode_dataset(backbone, dataset, range(len(dataset.samples)), cache=cache)
    told: list[Progress] = []
    audit = audit_content(dataset, backbone, cache=cache, progress=told.append)
    assert audit.counters["images_encoded"] == 0
    assert audit.findings == audit_content(dataset, backbone).findings
    assert {one.phase for one in told} == {"encoding", "auditing"}
    assert told[-1].step == told[-1].total_steps == 3 * 24
    assert [one.step for one in told] == sorted(one.step for one in told)


@pytest.mark.parametrize("calls", [0, 5, 40])
def test_it_stops_within_a_picture_when_told_to(tmp_path: Path, backbone: Any, calls: int) -> None:
    class Stop:
        left = calls

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cancelled("stop")

    dataset = Dataset.from_folder(write_folder(tmp_path / "p", {"red": 8, "green": 8, "blue": 8}))
    with pytest.raises(Cancelled):
        audit_content(dataset, backbone, control=Stop(), cache=MemoryFeatureCache())


def test_hashes_survive_a_stop(dataset: Dataset, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = MemoryFeatureCache()

    def stop(*_: object, **__: object) -> None:
        raise Cancelled("stop")

    monkeypatch.setattr(content, "near_pairs", stop)
    with pytest.raises(Cancelled):
        audit_content(dataset, backbone, cache=cache)
    monkeypatch.undo()
    opened = []
    monkeypatch.setattr(dataset, "open_image", lambda *a, **k: opened.append(1))
    audit_content(dataset, backbone, cache=cache)
    assert opened == []


def names(backbone: Any, **phrasings: tuple[str, ...]) -> dict[str, Finding]:
    prompts = {label: ClassInfo(label, words[0], words) for label, words in phrasings.items()}
    return {one.kind: one for one in audit_names(prompts, backbone)}


def test_names_that_the_tokenizer_breaks_are_told_and_words_are_not(backbone: Any) -> None:
    found = names(backbone, cat=("n02123045",), dog=("dalmatian",), chow=("chow chow",))
    assert found["class-name-in-pieces"].paths == ("cat",)
    assert found["class-name-in-pieces"].severity == "info"
    assert found["class-name-in-pieces"].items[0]["tokens"] >= 4


def test_names_that_a_tuning_would_refuse_are_told(backbone: Any) -> None:
    found = names(backbone, cat=("cat " * 100,), dog=("dog",), none=(" ",))  # the label _
    assert set(found["class-name-unusable"].paths) == {"cat", "none"}


def test_names_alike_in_text_space_are_told_by_pair(backbone: Any) -> None:
    found = names(backbone, one=("a cat",), two=("A  cat",), three=("zebra crossing at noon",))
    alike = found["class-names-alike"]
    assert alike.items[0]["labels"] == ["one", "two"]
    assert alike.items[0]["cosine"] == pytest.approx(1, abs=1e-3)
    assert alike.severity == "warning"
