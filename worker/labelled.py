"""From labelled feedback to a data set: a zip like anybody's, added to a stored data set by an edit like anybody's."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

from worker.datasets import DatasetRepository
from worker.feedback import FeedbackItem
from worker.records import DatasetRecord
from worker.store.base import Store

PLACE = "feedback"


def grow(
    datasets: DatasetRepository, store: Store, dataset_id: str, items: Iterable[tuple[FeedbackItem, bytes]]
) -> tuple[DatasetRecord, bool]:
    """Make the data set that has labelled images added; one that is there already gets the new label.

    Args:
        datasets: Where the data set is stored.
        store: Where the zip is written.
        dataset_id: What the images are added to; it stays as it is.
        items: Images with their labels, read one after the other.

    Returns:
        The record, and False where that very data set was there already.

    Raises:
        NotFoundError: no such data set.
        DatasetError: nothing can be learned from what results.
        StoreFullError: no room.
    """
    from npt_core.data.edit import Edit

    with datasets.open(dataset_id) as dataset:
        known = {sample.sha256 for sample in dataset.samples}
    relabel: dict[str, str] = {}
    part = store.part()
    try:
        added = _write(part, items, known, relabel, store)
        store.claim(part)
    except BaseException:
        part.unlink(missing_ok=True)  # not `discard`: what was never counted must not be taken off the count
        raise
    try:
        return datasets.edit(dataset_id, Edit(relabel=relabel), part if added else None, "feedback.zip")
    finally:
        store.discard(part)


def _write(
    part: Path, items: Iterable[tuple[FeedbackItem, bytes]], known: set[str], relabel: dict[str, str], store: Store
) -> int:
    """Write a zip of the items that are not known, and note the label of those that are; how many were written."""
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(("filename", "label"))
    added = 0
    with zipfile.ZipFile(part, "x") as archive:  # stored, not deflated: pictures are compressed
        for item, picture in items:
            label = item.label or ""
            if item.sha256 in known:
                relabel[item.sha256] = label
                continue
            store.ensure_free(len(picture))
            name = f"{PLACE}/{item.sha256}"  # content says what it is, and the sender's name is no path
            archive.writestr(name, picture)
            rows.writerow((name, label))
            added += 1
        archive.writestr("labels.csv", table.getvalue())
    return added
