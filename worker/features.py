"""The cache of image features that all jobs of this store share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from npt_core.tuning.cache import Array, FeatureCache, FolderFeatureCache


def feature_cache(settings: WorkerSettings) -> FeatureCache:
    """The cache in the data folder; one object a process."""
    return _open(settings.data_dir / "features", settings.feature_cache_bytes)


@lru_cache(maxsize=4)
def _open(folder: Path, max_bytes: int) -> FolderFeatureCache:
    from npt_core.tuning.cache import FolderFeatureCache

    return FolderFeatureCache(folder, max_bytes)


class NotedCache:
    """A cache that says when it has kept something: encoded images survive the death of their job."""

    def __init__(self, cache: FeatureCache, kept: Callable[[], None]) -> None:
        self._cache = cache
        self._kept = kept

    def get_many(self, keys: Sequence[str]) -> dict[str, Array]:
        return self._cache.get_many(keys)

    def put_many(self, items: Mapping[str, Array]) -> None:
        self._cache.put_many(items)
        if items:
            self._kept()
