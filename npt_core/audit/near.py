"""Near duplicates: pictures whose perceptual hashes nearly agree and whose features confirm it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from npt_core.audit.hashing import Hash

RADIUS = 24
"""Most bits of 256 in which the hashes of near duplicates differ."""

MIN_COSINE = 0.95
"""Least cosine of their image features."""

MIN_BITS = 16
"""A picture with fewer bits set has too little structure for its hash to say anything."""

MAX_NEIGHBOURS = 32
"""At most so many candidates for one picture: a set of a thousand copies must not have half a million pairs."""

BLOCK_BYTES = 32 << 20
"""Memory for one block of the comparison of everything with everything."""

Pairs = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


def near_pairs(hashes: Hash, features: Vectors, *, on_rows: Callable[[int], None] | None = None) -> Pairs:
    """Find pairs of pictures that look the same.

    Every pair is compared, in blocks: 60,000 pictures take seconds and a few dozen megabytes.

    Args:
        hashes: (n, 4) of `picture_hash`.
        features: (n, d) unit norm.
        on_rows: Called with the number of rows done since the last call; it may raise to stop.

    Returns:
        (m, 2) positions, the first below the second, in order.
    """
    n = len(hashes)
    bits = np.bitwise_count(hashes).sum(axis=1, dtype=np.int64)
    # Of two pictures with few bits, fewer may differ: half of what is there.
    reach = np.where(bits < MIN_BITS, -1, np.minimum(RADIUS, bits // 2)).astype(np.int16)
    rows = max(1, BLOCK_BYTES // (16 * max(n, 1)))
    found: list[Pairs] = []
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        found.extend(_confirmed(pairs, features) for pairs in _candidates(hashes, reach, start, stop))
        if on_rows is not None:
            on_rows(stop - start)
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def _candidates(hashes: Hash, reach: npt.NDArray[np.int16], start: int, stop: int) -> Iterator[Pairs]:
    """Pairs of a row in [start, stop) and a later one whose hashes nearly agree."""
    later = hashes[start:]
    distance = np.zeros((stop - start, len(later)), dtype=np.int16)
    for word in range(hashes.shape[1]):
        distance += np.bitwise_count(hashes[start:stop, word, None] ^ later[None, :, word])
    near = distance <= np.minimum(reach[start:stop, None], reach[None, start:])
    near &= np.arange(stop - start)[:, None] < np.arange(len(later))[None, :]
    for row in np.flatnonzero(near.any(axis=1)):
        columns = np.flatnonzero(near[row])
        if len(columns) > MAX_NEIGHBOURS:
            columns = columns[np.argpartition(distance[row, columns], MAX_NEIGHBOURS)[:MAX_NEIGHBOURS]]
            columns.sort()
        yield np.stack([np.full(len(columns), start + row), start + columns], axis=1)


def _confirmed(pairs: Pairs, features: Vectors) -> Pairs:
    """Those pairs of one row whose features agree."""
    agree: npt.NDArray[np.bool_] = features[pairs[:, 1]] @ features[pairs[0, 0]] >= MIN_COSINE
    return pairs[agree]


def group_of(pairs: Pairs, n: int) -> npt.NDArray[np.int64]:
    """Number the connected groups of `n` pictures.

    Returns:
        (n,) for each picture the first member of its group, which is itself where it stands alone.
    """
    root = np.arange(n)

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = int(root[i])
        return i

    for a, b in pairs.tolist():
        first, second = sorted((find(a), find(b)))
        root[second] = first
    return np.array([find(i) for i in range(n)], dtype=np.int64)


@dataclass(frozen=True)
class NearGroup:
    """Pictures that look the same, by position, and what is wrong about it.

    Attributes:
        members: Rising positions, at least two.
        across_classes: A pair of them has no label in common.
        across_splits: A pair of them lies in different splits.
    """

    members: tuple[int, ...]
    across_classes: bool
    across_splits: bool


def near_groups(pairs: Pairs, labels: Sequence[frozenset[str]], splits: Sequence[frozenset[str]]) -> list[NearGroup]:
    """Gather pairs to groups.

    Args:
        pairs: Of `near_pairs`.
        labels: For each picture, every label its file has in the data set.
        splits: The same for splits.
    """
    groups = group_of(pairs, len(labels))
    members: dict[int, list[int]] = {}
    wrong: dict[int, set[str]] = {}
    for i in np.unique(pairs):
        members.setdefault(int(groups[i]), []).append(int(i))
    for a, b in pairs.tolist():
        flags = wrong.setdefault(int(groups[a]), set())
        if not labels[a] & labels[b]:
            flags.add("classes")
        if splits[a] != splits[b]:
            flags.add("splits")
    return [
        NearGroup(tuple(found), "classes" in wrong[group], "splits" in wrong[group])
        for group, found in sorted(members.items())
    ]
