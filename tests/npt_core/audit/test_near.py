"""Perceptual hashes and the search for near duplicates, against a plain search."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from npt_core.audit import near
from npt_core.audit.hashing import HashTable, picture_hash
from npt_core.audit.near import MAX_NEIGHBOURS, MIN_COSINE, RADIUS, group_of, near_groups, near_pairs
from npt_core.tuning.cache import MemoryFeatureCache

Words = np.ndarray


def scene(seed: int, side: int = 160) -> Image.Image:
    """Some filled shapes on a ground: structure on every scale, as pictures have."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = (int(v) for v in rng.integers(0, side, 4))
        draw.ellipse((x - w // 3, y - h // 3, x + w // 3, y + h // 3), tuple(int(v) for v in rng.integers(0, 256, 3)))
    return image


def distance(one: Words, other: Words) -> int:
    return int(np.bitwise_count(one ^ other).sum())


def saved(image: Image.Image, **options: object) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return Image.open(out).convert("RGB")


def test_the_same_picture_in_another_form_is_near_and_another_picture_is_far() -> None:
    for seed in range(8):
        image = scene(seed)
        forms = [
            saved(image, quality=50),
            image.resize((80, 80), Image.Resampling.BICUBIC),
            image.resize((300, 200), Image.Resampling.BICUBIC),
            image.convert("L").convert("RGB"),
        ]
        assert all(distance(picture_hash(image), picture_hash(form)) <= RADIUS for form in forms)
        assert distance(picture_hash(image), picture_hash(scene(seed + 100))) > 2 * RADIUS


def test_pictures_without_structure_have_next_to_no_bit_and_no_near_duplicate() -> None:
    plain = [picture_hash(Image.new("RGB", (20, 30), colour)) for colour in ("red", "blue", "blue")]
    assert max(int(np.bitwise_count(one).sum()) for one in plain) < near.MIN_BITS
    assert len(near_pairs(np.stack(plain), np.ones((3, 1), np.float32))) == 0


def plain_search(hashes: Words, features: Words) -> list[tuple[int, int]]:
    bits = [int(np.bitwise_count(one).sum()) for one in hashes]
    return [
        (a, b)
        for a, b in itertools.combinations(range(len(hashes)), 2)
        if min(bits[a], bits[b]) >= near.MIN_BITS
        and distance(hashes[a], hashes[b]) <= min(RADIUS, bits[a] // 2, bits[b] // 2)
        and features[a] @ features[b] >= MIN_COSINE
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40), st.sampled_from([64, 4096, 32 << 20]))
def test_the_search_in_blocks_finds_what_a_plain_search_finds(seed: int, n: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    masters = rng.integers(0, 2**64, (4, 4), dtype=np.uint64)
    hashes = masters[rng.integers(0, 4, n)]
    for row in range(n):  # up to 40 bits turned over: some pairs are near, some are not
        for bit in rng.integers(0, 256, rng.integers(0, 41)):
            hashes[row, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    features = rng.normal(0, 0.2, (n, 3)) + [1, 0, 0]
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    rows: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "BLOCK_BYTES", block)
        found = near_pairs(hashes, features, on_rows=rows.append)
    assert [tuple(pair) for pair in found.tolist()] == plain_search(hashes, features)
    assert sum(rows) == n


def test_a_thousand_copies_are_one_group_of_not_too_many_pairs() -> None:
    hashes = np.repeat(picture_hash(scene(1))[None], 1000, axis=0)
    pairs = near_pairs(hashes, np.ones((1000, 1), np.float32))
    assert len(pairs) <= 1000 * MAX_NEIGHBOURS
    assert set(group_of(pairs, 1000).tolist()) == {0}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda p: p[0] < p[1]), max_size=14))
def test_groups_are_the_connected_components(edges: list[tuple[int, int]]) -> None:
    groups = [{i} for i in range(12)]
    for a, b in edges:
        first, second = (next(g for g in groups if x in g) for x in (a, b))
        if first is not second:
            groups.remove(second)
            first |= second
    found = group_of(np.array(edges, np.int64).reshape(-1, 2), 12)
    assert {frozenset(np.flatnonzero(found == root).tolist()) for root in found} == {frozenset(g) for g in groups}
    assert all(found[i] <= i for i in range(12))


def test_groups_say_what_is_wrong_about_them() -> None:
    cat, dog, train, test = (frozenset({word}) for word in ("cat", "dog", "train", "test"))
    pairs = np.array([[0, 1], [1, 2], [3, 4], [5, 6]])
    groups = near_groups(pairs, [cat, cat, cat, cat, dog, cat | dog, dog], [train, train, test, *[train] * 4])
    assert [(g.members, g.across_classes, g.across_splits) for g in groups] == [
        ((0, 1, 2), False, True),
        ((3, 4), True, False),
        ((5, 6), False, False),
    ]


def test_hashes_are_kept_in_the_cache_by_content_and_decoding() -> None:
    cache = MemoryFeatureCache()
    first = HashTable(cache, 64)
    first.take("a", scene(1))
    first.flush()
    again, other_size = HashTable(cache, 64), HashTable(cache, 224)
    for table in (again, other_size):
        table.read(["a", "b"])
    assert "a" in again
    assert "b" not in again
    assert "a" not in other_size
    assert (again.rows(["a"]) == picture_hash(scene(1))).all()
    assert again.rows([]).shape == (0, 4)
