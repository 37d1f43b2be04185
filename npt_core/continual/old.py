"""The old images of a tuning that goes on from a model: which are tuned on again, chosen by, and measured on.

They come from the data sets that the model and its ancestors were tuned on, where those are still at hand. An image is
in one part only, and in none where the new data set has it too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from npt_core.data.dataset import Dataset, Sample
from npt_core.data.faults import FaultLog
from npt_core.data.labels import ClassInfo
from npt_core.data.layout import TRAIN
from npt_core.data.names import shown
from npt_core.data.reading import Reader

MAX_REPLAYED = 16
"""Old images of a class that are tuned on again."""

MAX_CHOSEN_BY = 16
MAX_MEASURED = 64
MAX_ASKED = 4096
"""Old images of all classes that are measured on: with many classes fewer of each, at least one."""

MIN_OF_A_CLASS = 3
"""With fewer old images of a class, none of them is measured on: one in each part is the least."""


@dataclass(frozen=True)
class OldParts:
    """Positions in the joint data set.

    Attributes:
        replay: Tuned on again.
        spared: What a null space is taken from.
        choose: What `max_old_loss` is kept by.
        measure: What the report's old accuracy is measured on.
        seen: Images of `measure` that the parent was tuned on.
    """

    replay: tuple[int, ...] = ()
    spared: tuple[int, ...] = ()
    choose: tuple[int, ...] = ()
    measure: tuple[int, ...] = ()
    seen: int = 0


@dataclass(frozen=True)
class Lineage:
    """What a manifest says of the images behind a model.

    Attributes:
        datasets: Ids of the data sets it and its ancestors were tuned on, its own first.
        samples: SHA-256 of every image that it or an ancestor was tuned on.
    """

    datasets: tuple[str, ...] = ()
    samples: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Lineage:
        """Read a manifest."""
        inherited = manifest.get("inherited") or {}
        own = manifest.get("dataset_id")
        ids = [*([str(own)] if own else []), *map(str, inherited.get("datasets", ()))]
        hashes = {str(one["sha256"]) for one in manifest.get("samples") or ()} | set(inherited.get("samples", ()))
        return cls(tuple(dict.fromkeys(ids)), frozenset(hashes))


def gather(
    fresh: Dataset, old: Sequence[Dataset], labels: Collection[str], bad: Collection[str] = ()
) -> tuple[Dataset, tuple[int, ...]]:
    """Return one data set of the new images and, behind them, the old ones that may be used.

    Args:
        fresh: The new images; they keep their positions.
        old: Where old images lie.
        labels: The parent's classes; images of others are left out.
        bad: Paths, as a joint data set shows them, of old images that turned out unreadable.

    Returns:
        The joint data set, and the positions of the old images in it.
    """
    taken = {sample.sha256 for sample in fresh.samples}
    samples: list[Sample] = []
    archives = [*fresh.reader.archives]
    prompts = dict(fresh.prompts)
    for dataset in old:
        for sample in dataset.samples:
            if sample.sha256 in taken or sample.label not in labels:
                continue
            path = f"{dataset.id[:12]}/{sample.path}"
            if shown(path) in bad:
                continue
            taken.add(sample.sha256)
            archive, entry = len(archives) + sample.archive, sample.entry or sample.path
            samples.append(replace(sample, path=path, archive=archive, entry=entry))
            prompts.setdefault(sample.label, dataset.prompts.get(sample.label) or ClassInfo.from_label(sample.label))
        archives += dataset.reader.archives
    if not samples:
        return fresh, ()
    joint = Dataset(
        [*fresh.samples, *samples],
        dict(sorted(prompts.items())),
        kind=fresh.kind,
        skipped=fresh.skipped,
        notes=fresh.notes,
        faults=FaultLog(),
        reader=Reader(archives),
    )
    return joint, tuple(range(len(fresh.samples), len(joint.samples)))


def deal(
    dataset: Dataset, old: Sequence[int], seen: Collection[str], *, keeping: str, choose: bool, seed: int
) -> OldParts:
    """Deal old images to their parts, class by class.

    Images that the parent was not tuned on go to `measure`, then to `choose`: only they give an honest accuracy. Those
    that it was tuned on are tuned on again, and stand in where there are no others.

    Args:
        dataset: The joint one.
        old: Positions of the old images.
        seen: SHA-256 of the images the parent was tuned on.
        keeping: See `keeping.Keeping`: whether any are tuned on again, or spared.
        choose: Whether a bound has to be kept by some.
        seed: Of the draws.
    """
    by_class: dict[str, list[int]] = {}
    for position in old:
        by_class.setdefault(dataset.samples[position].label, []).append(position)
    again: list[int] = []
    apart: list[int] = []
    measure: list[int] = []
    each = max(1, min(MAX_MEASURED, MAX_ASKED // max(1, len(by_class))))
    for _, members in sorted(by_class.items()):
        dealt = _deal_class(dataset, members, seen, each, choose, seed)
        for part, positions in zip((again, apart, measure), dealt, strict=True):
            part += positions
    used = tuple(sorted(again))
    return OldParts(
        replay=used if keeping in ("replay", "both") else (),
        spared=used if keeping in ("null-space", "both") else (),
        choose=tuple(sorted(apart)),
        measure=tuple(sorted(measure)),
        seen=sum(dataset.samples[i].sha256 in seen for i in measure),
    )


def _deal_class(
    dataset: Dataset, members: list[int], seen: Collection[str], most: int, choose: bool, seed: int
) -> tuple[list[int], list[int], list[int]]:
    """Return the images of one class to use again, to choose by and to measure on."""
    # By content: where an image lies must not decide, and no image is drawn because of its class.
    order = sorted(members, key=lambda i: sha256(f"{seed} {dataset.samples[i].sha256}".encode()).digest())
    fresh = [i for i in order if dataset.samples[i].sha256 not in seen]
    known = [i for i in order if dataset.samples[i].sha256 in seen]
    # Its own test part is never tuned on, whatever the parent did with it.
    again = [i for i in (*known, *fresh) if dataset.samples[i].split == TRAIN]
    if len(order) < MIN_OF_A_CLASS:
        return again, [], []
    quarter = max(1, len(order) // 4)
    line = [*fresh, *reversed(known)]  # for the two parts that are not tuned on
    measure = line[: min(most, max(quarter, len(fresh) * 3 // 4))]
    apart = line[len(measure) :][: min(MAX_CHOSEN_BY, most, quarter)] if choose else []
    out = {*measure, *apart}
    return [i for i in again if i not in out][:MAX_REPLAYED], apart, measure
