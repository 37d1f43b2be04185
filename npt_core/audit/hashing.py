"""A perceptual hash: pictures that look the same have hashes of few different bits, whatever their format and size.

The sign of 16 x 16 low frequencies of the grey picture against their median, as in pHash (Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010), with 256 bits in place of 64 and a margin below which a
frequency counts as absent: without it the bits of plain areas are noise, and compression turns them over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from npt_core.data.images import DECODE_POLICY
from npt_core.tuning.cache import FeatureCache

Hash = npt.NDArray[np.uint64]

HASH_RECIPE = 1
"""Changes whenever the same picture may get another hash; part of the key it is cached under."""

SIDE, FREQUENCIES = 64, 16
WORDS = FREQUENCIES * FREQUENCIES // 64
MARGIN = 8.0
"""In grey levels, times the root of the number of pixels: about one level in eight over the whole picture."""


def _basis() -> npt.NDArray[np.float64]:
    """(16, 64) the lowest rows of the orthonormal DCT-II."""
    place = np.arange(SIDE)[None, :]
    frequency = np.arange(FREQUENCIES)[:, None]
    basis: npt.NDArray[np.float64] = np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE)) * np.sqrt(2 / SIDE)
    basis[0] *= np.sqrt(0.5)
    return basis


_BASIS = _basis()


def picture_hash(image: Image.Image) -> Hash:
    """Hash an image of any size.

    Returns:
        (4,) uint64: 256 bits. A picture without structure has hardly a bit set.
    """
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    spectrum = (_BASIS @ np.asarray(grey, dtype=np.float64) @ _BASIS.T).ravel()
    bits = spectrum > np.median(spectrum[1:]) + MARGIN
    bits[0] = False  # the mean brightness
    return np.packbits(bits).view(np.uint64)


class HashTable:
    """Hashes of images by the SHA-256 of their file; known ones come from the cache, new ones go there.

    Args:
        cache: Where hashes are kept between audits; None for nowhere.
        target: The side that decoders may shrink to (see `decode_image`); it changes pixels, so it is part of the key.
    """

    def __init__(self, cache: FeatureCache | None, target: int) -> None:
        self._cache, self._target = cache, target
        self._known: dict[str, Hash] = {}
        self._fresh: dict[str, Hash] = {}

    def _key(self, sha256: str) -> str:
        facts = ["picture-hash", HASH_RECIPE, sha256, DECODE_POLICY, self._target]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def read(self, hashes: Sequence[str]) -> None:
        """Take from the cache what it has."""
        if self._cache is None:
            return
        keys = {self._key(sha256): sha256 for sha256 in hashes}
        for key, value in self._cache.get_many(list(keys)).items():
            self._known[keys[key]] = np.array(value, dtype=np.uint64)

    def take(self, sha256: str, image: Image.Image) -> None:
        """Hash a picture that was just decoded; threads may call this side by side."""
        if sha256 not in self._known:
            self._known[sha256] = self._fresh[sha256] = picture_hash(image)

    def flush(self) -> None:
        """Hand new hashes to the cache."""
        fresh = {sha256: self._fresh.pop(sha256) for sha256 in list(self._fresh)}
        if fresh and self._cache is not None:
            self._cache.put_many({self._key(sha256): value for sha256, value in fresh.items()})

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._known

    def rows(self, hashes: Sequence[str]) -> Hash:
        """Return (n, 4) hashes in the order asked for."""
        return np.stack([self._known[sha256] for sha256 in hashes]) if hashes else np.zeros((0, WORDS), np.uint64)

    @property
    def known(self) -> Mapping[str, Hash]:
        """Every hash so far."""
        return self._known
