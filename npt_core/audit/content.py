"""The audit of what is in the pictures: near duplicates, likely label errors, outliers, unreadable files, names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from npt_core.audit import telling
from npt_core.audit.crossval import Ints, judge
from npt_core.audit.hashing import HashTable
from npt_core.audit.names import audit_names
from npt_core.audit.near import Vectors, group_of, near_groups, near_pairs
from npt_core.data.dataset import Dataset, Sample
from npt_core.data.findings import Finding, by_severity
from npt_core.tuning.control import Control, GoOn, ProgressSink
from npt_core.tuning.features import (
    DECODE_THREADS,
    FeatureCache,
    FeatureSet,
    decode_target,
    decoded_ahead,
    encode_dataset,
)
from npt_core.tuning.meter import Meter

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone

FLUSH = 256
"""Hashes handed to the cache at once."""


@dataclass
class ContentAudit:
    """What `audit_content` returns.

    Attributes:
        findings: Warnings first.
        counters: `images_encoded`, `images_cached`, `images_unreadable`.
    """

    findings: list[Finding]
    counters: dict[str, int] = field(default_factory=dict)


def audit_content(
    dataset: Dataset,
    backbone: Backbone,
    *,
    cache: FeatureCache | None = None,
    control: Control | None = None,
    progress: ProgressSink | None = None,
) -> ContentAudit:
    """Look at every picture of a data set once, through a frozen backbone.

    Features and hashes go through the cache: a tuning on the same backbone encodes nothing again, and neither does a
    second audit. Nothing found here keeps anybody from tuning.

    Args:
        dataset: The labelled pictures.
        backbone: The frozen towers.
        cache: Of image features and hashes.
        control: Checked for every picture and every block of the comparison.
        progress: Told where the work stands.

    Raises:
        StopTuning: `control` asked to stop.
    """
    return _Audit(dataset, backbone, cache, control or GoOn(), Meter(progress)).run()


class _Audit:
    """The state of one audit. A picture stands for every copy of its file."""

    def __init__(
        self, dataset: Dataset, backbone: Backbone, cache: FeatureCache | None, control: Control, meter: Meter
    ) -> None:
        self.dataset, self.backbone, self.cache = dataset, backbone, cache
        self.control, self.meter = control, meter
        self.copies: dict[str, list[int]] = {}
        for position, sample in enumerate(dataset.samples):
            self.copies.setdefault(sample.sha256, []).append(position)
        self.hashes = HashTable(cache, decode_target(backbone))

    def run(self) -> ContentAudit:
        for kind in ("encoding", "hashing", "auditing"):
            self.meter.expect(kind, len(self.copies))
        encoded = self._encode()
        self.meter.enter("auditing")
        pictures = [self.dataset.samples[index] for index in encoded.indices]
        self._hash_rest(pictures)
        features = encoded.features[:, 0].numpy()
        pairs = near_pairs(self.hashes.rows([one.sha256 for one in pictures]), features, on_rows=self._advance)
        labels = [frozenset(copy.label for copy in self._copies_of(one)) for one in pictures]
        splits = [frozenset(copy.split for copy in self._copies_of(one)) for one in pictures]
        groups = group_of(pairs, len(pictures))
        findings = [
            *telling.unreadable(encoded.bad),
            *telling.near_duplicates(pictures, near_groups(pairs, labels, splits)),
            *self._doubted(pictures, labels, features, groups),
            *audit_names(self.dataset.prompts, self.backbone),
        ]
        self.control.check()
        self.meter.report(force=True)
        counters = {
            "images_encoded": encoded.encoded,
            "images_cached": encoded.cached,
            "images_unreadable": len(encoded.bad),
        }
        return ContentAudit(by_severity(findings), counters)

    def _encode(self) -> FeatureSet:
        self.meter.enter("encoding")
        self.hashes.read(list(self.copies))

        def told(encoded: int, cached: int) -> None:
            if cached:
                self.meter.skip("encoding", cached)
            if encoded:
                self.meter.advance("encoding", encoded)
                self.hashes.flush()
            self.meter.report()

        return encode_dataset(
            self.backbone,
            self.dataset,
            [positions[0] for positions in self.copies.values()],
            cache=self.cache,
            control=self.control,
            progress=told,
            seen=lambda sample, image: self.hashes.take(sample.sha256, image),
        )

    def _hash_rest(self, pictures: Sequence[Sample]) -> None:
        """Decode the pictures whose features were known and whose hashes were not."""
        rest = [sample for sample in pictures if sample.sha256 not in self.hashes]
        self.meter.skip("hashing", len(self.copies) - len(rest))
        target = decode_target(self.backbone)

        def look(sample: Sample) -> None:
            self.hashes.take(sample.sha256, self.dataset.open_image(sample, target=target))

        with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="hash") as pool:
            for done, _ in enumerate(decoded_ahead(pool, rest, look, window=16 * DECODE_THREADS), 1):
                self.control.check()
                self.meter.advance("hashing")
                self.meter.report()
                if done % FLUSH == 0:
                    self.hashes.flush()
        self.hashes.flush()

    def _advance(self, rows: int) -> None:
        self.control.check()
        self.meter.advance("auditing", rows)
        self.meter.report()

    def _copies_of(self, sample: Sample) -> Iterator[Sample]:
        return (self.dataset.samples[position] for position in self.copies[sample.sha256])

    def _doubted(
        self, pictures: Sequence[Sample], labels: Sequence[frozenset[str]], features: Vectors, groups: Ints
    ) -> Iterator[Finding]:
        """Label errors and outliers, from one cross-validation over the pictures that have one label."""
        kept = [i for i, own in enumerate(labels) if len(own) == 1]
        names, numbers = np.unique([pictures[i].label for i in kept], return_inverse=True)
        if len(names) < 2:
            return
        judged = judge(features[kept], numbers, groups[kept].tolist(), len(names), check=self.control.check)
        single = [pictures[i] for i in kept]
        yield from telling.label_errors(single, numbers, [str(name) for name in names], judged)
        yield from telling.outliers(single, judged)
