"""Which store the settings ask for: the data folder, or a bucket."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from npt_core.errors import ConfigError
from worker.settings import STORE_URL, WorkerSettings
from worker.store.base import Store
from worker.store.local import LocalStore

if TYPE_CHECKING:
    from worker.store.s3.store import S3Store


def open_store(settings: WorkerSettings) -> Store:
    """The store. A bucket is asked whether it is there, can be written to, and knows conditional writes.

    Raises:
        ConfigError: the bucket cannot be used, or the packages for it are missing.
    """
    if settings.store_url is None:
        return LocalStore(settings.data_dir, min_free_bytes=settings.min_free_bytes, max_bytes=settings.max_store_bytes)
    return _open_s3(
        settings.store_url,
        settings.s3_endpoint,
        settings.data_dir,
        settings.min_free_bytes,
        settings.max_store_bytes,
        settings.s3_cache_bytes,
    )


@lru_cache(maxsize=4)
def _open_s3(
    url: str, endpoint: str | None, root: Path, min_free_bytes: int, max_bytes: int, cache_bytes: int
) -> S3Store:
    """One object a process: its locks and connections are shared."""
    try:
        from worker.store.s3.connecting import connect
        from worker.store.s3.probe import check
        from worker.store.s3.store import S3Store
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("botocore", "urllib3"):
            raise
        raise ConfigError(
            "NPT_STORE_URL names a bucket, and the packages for that are not installed: pip install 'npt-service[s3]'."
        ) from None
    match = STORE_URL.fullmatch(url)
    if match is None:  # the settings have refused it
        raise ConfigError("NPT_STORE_URL must be s3://BUCKET or s3://BUCKET/PREFIX.")
    bucket = connect(match[1], match[2] or "", endpoint)
    check(bucket)
    return S3Store(bucket, root, min_free_bytes=min_free_bytes, max_bytes=max_bytes, cache_bytes=cache_bytes)
