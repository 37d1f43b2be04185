"""Old images: which are used, and for what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.continual.old import MAX_CHOSEN_BY, MAX_MEASURED, MAX_REPLAYED, Lineage, deal, gather
from npt_core.data import Dataset
from npt_core.data.dataset import Sample
from npt_core.data.faults import FaultLog
from npt_core.data.labels import ClassInfo
from npt_core.data.reading import Reader
from tests.support.pictures import write_folder


def made(counts: dict[str, int], splits: tuple[str, ...] = ("train",)) -> Dataset:
    samples = [
        Sample(f"{split}/{label}/{i}.png", label, split, f"{label}{split}{i}".encode().hex().ljust(64, "0"), 1)
        for split in splits
        for label, count in counts.items()
        for i in range(count)
    ]
    prompts = {label: ClassInfo.from_label(label) for label in sorted(counts)}
    reader = Reader(["nowhere"])
    return Dataset(samples, prompts, kind="folders", skipped={}, notes=(), faults=FaultLog(), reader=reader)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 90), min_size=1),
    st.floats(0, 1),
    st.sampled_from(["none", "replay", "null-space", "both"]),
    st.booleans(),
    st.integers(0, 50),
)
def test_no_image_is_in_two_parts(counts: dict[str, int], known: float, keeping: str, choose: bool, seed: int) -> None:
    dataset = made(counts, ("train", "test"))
    positions = range(len(dataset.samples))
    seen = {dataset.samples[i].sha256 for i in positions if i < known * len(positions)}
    parts = deal(dataset, positions, seen, keeping=keeping, choose=choose, seed=seed)
    used = [*{*parts.replay, *parts.spared}, *parts.choose, *parts.measure]
    assert len(used) == len(set(used))
    assert bool(parts.replay) <= (keeping in ("replay", "both"))
    assert bool(parts.spared) <= (keeping in ("null-space", "both"))
    assert bool(parts.choose) <= choose
    assert all(dataset.samples[i].split == "train" for i in (*parts.replay, *parts.spared))
    assert parts.seen == sum(dataset.samples[i].sha256 in seen for i in parts.measure)
    for label in counts:
        three = (parts.replay, parts.choose, parts.measure)
        mine = [[i for i in part if dataset.samples[i].label == label] for part in three]
        assert len(mine[0]) <= MAX_REPLAYED
        assert len(mine[1]) <= MAX_CHOSEN_BY
        assert len(mine[2]) <= MAX_MEASURED
        fresh = [i for i in positions if dataset.samples[i].label == label and dataset.samples[i].sha256 not in seen]
        if any(dataset.samples[i].sha256 in seen for i in mine[2]):  # only where there are not enough others
            assert set(fresh) <= set(mine[2])


def test_images_the_parent_did_not_see_are_measured_on_and_the_others_tuned_on() -> None:
    dataset = made({"a": 16, "b": 16}, ("train", "test"))
    seen = {one.sha256 for one in dataset.samples if one.split == "train"}
    parts = deal(dataset, range(len(dataset.samples)), seen, keeping="replay", choose=True, seed=0)
    assert parts.seen == 0
    assert {dataset.samples[i].split for i in parts.measure} == {"test"}
    assert len(parts.replay) == 2 * (16 - 4)  # four of each class are wanted to choose by


def test_the_new_data_comes_first_and_what_it_has_itself_is_not_taken_twice() -> None:
    old, fresh = made({"a": 4, "b": 4, "c": 4}), made({"b": 4, "d": 4})
    joint, found = gather(fresh, [old, old], {"a", "b"})
    assert joint.samples[: len(fresh)] == fresh.samples
    assert {joint.samples[i].label for i in found} == {"a"}
    assert joint.labels == ("a", "b", "d")
    assert len({one.path for one in joint.samples}) == len(joint.samples)
    bad = {joint.samples[found[0]].path}
    assert len(gather(fresh, [old], {"a", "b"}, bad)[1]) == 3
    assert gather(fresh, [], {"a"}) == (fresh, ())


def test_joint_images_are_read_where_they_lie(tmp_path: Path) -> None:
    old = Dataset.from_folder(write_folder(tmp_path / "old", {"red": 3, "green": 3}))
    fresh = Dataset.from_folder(write_folder(tmp_path / "new", {"blue": 3, "yellow": 3}, first_seed=50))
    joint, found = gather(fresh, [old], {"red", "green"})
    by_hash = {one.sha256: old.read(one) for one in old.samples}
    assert len(found) == 6
    assert all(joint.read(joint.samples[i]) == by_hash[joint.samples[i].sha256] for i in found)
    joint.reader.release()
    assert fresh.read(fresh.samples[0])


@pytest.mark.parametrize("inherited", [None, {"datasets": ["c" * 64, "d" * 64], "samples": ["e" * 64]}])
def test_a_lineage_is_all_that_was_ever_tuned_on(inherited: dict[str, list[str]] | None) -> None:
    manifest = {"dataset_id": "c" * 64, "samples": [{"path": "x", "sha256": "a" * 64}]}
    found = Lineage.of(manifest | ({"inherited": inherited} if inherited else {}))
    assert found.datasets == (("c" * 64, "d" * 64) if inherited else ("c" * 64,))
    assert found.samples == ({"a" * 64, "e" * 64} if inherited else {"a" * 64})
    assert replace(found, datasets=()) == Lineage((), found.samples)
    assert Lineage.of({}) == Lineage()


def test_with_many_classes_fewer_of_each_are_measured_on() -> None:
    dataset = made({f"class {n:04}": 8 for n in range(2100)})
    parts = deal(dataset, range(len(dataset.samples)), set(), keeping="none", choose=True, seed=0)
    assert len(parts.measure) == len(parts.choose) == 2100
