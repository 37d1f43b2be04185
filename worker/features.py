"""The cache of image features that all jobs of this store share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from worker.settings import WorkerSettings
from worker.tally import Counts

if TYPE_CHECKING:
    from npt_core.tuning.cache import Array, FeatureCache
    from npt_core.tuning.folder_cache import FolderFeatureCache


def feature_cache(settings: WorkerSettings) -> FolderFeatureCache:
    """The cache of this machine; one object a process."""
    return _open(settings.features_path, settings.feature_cache_bytes)


@lru_cache(maxsize=4)
def _open(folder: Path, max_bytes: int) -> FolderFeatureCache:
    from npt_core.tuning.folder_cache import FolderFeatureCache

    return FolderFeatureCache(folder, max_bytes)


class NotedCache:
    """A cache that says when it has kept something: encoded images survive the death of their job. Counts its use.

    Args:
        cache: The one behind it.
        kept: Called after each write.
        count: Told what was looked for, found and encoded.
    """

    def __init__(self, cache: FeatureCache, kept: Callable[[], None], count: Callable[[Counts], None]) -> None:
        self._cache = cache
        self._kept = kept
        self._count = count

    def get_many(self, keys: Sequence[str]) -> dict[str, Array]:
        found = self._cache.get_many(keys)
        if keys:
            self._count({"cache|features|hit": len(found), "cache|features|miss": len(keys) - len(found)})
        return found

    def put_many(self, items: Mapping[str, Array]) -> None:
        self._cache.put_many(items)
        if items:
            self._kept()
            # Of one image there may be token features (T, d) besides the pooled ones (d).
            self._count({"images|worker": sum(array.ndim == 1 for array in items.values())})
