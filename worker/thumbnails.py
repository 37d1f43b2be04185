"""Small pictures of a stored data set, so that a person sees what was sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.records import Page

if TYPE_CHECKING:
    from npt_core.data.dataset import Dataset
    from npt_core.data.ingest import Sample


@dataclass(frozen=True)
class Thumbnail:
    """A picture of a data set made small: `image` is a data URI, or None and `message` says why."""

    sample: Sample
    image: str | None
    message: str | None = None


def thumbnails(
    dataset: Dataset,
    *,
    label: str | None = None,
    paths: Sequence[str] = (),
    per_class: int | None = None,
    side: int = 64,
    start: int = 0,
    limit: int = 60,
) -> Page[Thumbnail]:
    """Make pictures small, one after the other; memory for one of them is needed at a time.

    Args:
        dataset: Open, to read from.
        label: Only pictures of this class.
        paths: Only these pictures, where any are named; unknown ones are passed over.
        per_class: At most so many of each class, evenly spread over it, in the order of `dataset.labels`; None: all.
        side: Longest side, pixels.
        start: So many of those asked for are left out.
        limit: Most on the page.
    """
    chosen = [sample for sample in _chosen(dataset, set(paths), per_class) if label is None or sample.label == label]
    items = [_small(dataset, sample, side) for sample in chosen[start : start + limit]]
    return Page(items=items, next_cursor=str(start + limit) if start + limit < len(chosen) else None)


def _chosen(dataset: Dataset, paths: set[str], per_class: int | None) -> Iterator[Sample]:
    if paths:
        yield from (sample for sample in dataset.samples if sample.path in paths)
        return
    if per_class is None:
        yield from dataset.samples
        return
    by_label: dict[str, list[Sample]] = {label: [] for label in dataset.labels}
    for sample in dataset.samples:
        by_label.setdefault(sample.label, []).append(sample)
    for samples in by_label.values():
        wanted = min(per_class, len(samples))
        yield from (samples[i * len(samples) // wanted] for i in range(wanted))


def _small(dataset: Dataset, sample: Sample, side: int) -> Thumbnail:
    from npt_core.data.thumbnails import thumbnail
    from npt_core.errors import ImageError

    try:
        return Thumbnail(sample, thumbnail(dataset.open_image(sample, target=side), side))
    except ImageError as error:
        return Thumbnail(sample, None, error.message)
