"""One row of the corpus: what is sent where, and the one right answer to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from tests.support.zips import RawEntry, picture, raw_zip

GOOD = (
    RawEntry(b"cat/0.png", picture(1)),
    RawEntry(b"cat/1.png", picture(2)),
    RawEntry(b"dog/0.png", picture(11)),
    RawEntry(b"dog/1.png", picture(12)),
)
"""Two classes of two pictures: alone they are a data set, so that what stands beside them is what is refused."""

PREDICT = "/predict?" + urlencode({"model": "zero-shot", "labels": '["a red circle", "a blue square"]'})


@dataclass(frozen=True)
class Case:
    """One upload.

    Args:
        name: Short; unique in the corpus.
        make: Generates the body.
        says: Words that the answer must hold.
        status: Of the answer.
        code: Of the problem; empty where the answer is no problem.
        path: What it is posted to, with its query.
        content_type: Of the request; empty: none is sent.
        headers: Further ones.
    """

    name: str
    make: Callable[[], bytes]
    says: str = ""
    status: int = 422
    code: str = "invalid-archive"
    path: str = "/datasets"
    content_type: str = "application/zip"
    headers: tuple[tuple[str, str], ...] = ()


def beside_good(*bad: RawEntry) -> bytes:
    """A zip that would be a data set, were it not for `bad`."""
    return raw_zip([*GOOD, *bad])
