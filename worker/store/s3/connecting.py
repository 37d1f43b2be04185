"""The way to a bucket. Credentials, region and CA are found by the client library where it always looks: AWS_*."""

from __future__ import annotations

from botocore.config import Config
from botocore.session import Session

from npt_core.errors import ConfigError
from worker.store.s3.bucket import LONG_TRIES, TRIES, Bucket
from worker.store.s3.failures import BotoCoreError

REGION = "us-east-1"
"""Servers that are not AWS have no regions, and take this one."""
CONNECTIONS = 32
CONNECT_S = 5.0
SILENT_S, LONG_SILENT_S = 10.0, 60.0
"""A server silent for so long is asked again: where the answer is at hand, and where it may have to move a gigabyte."""


def connect(
    name: str,
    prefix: str,
    endpoint: str | None = None,
    *,
    silent_s: float = SILENT_S,
    long_silent_s: float = LONG_SILENT_S,
) -> Bucket:
    """A bucket, not asked for anything yet.

    Args:
        name: Of the bucket.
        prefix: Before every key.
        endpoint: Of a server that is not AWS; its buckets are named in the path, as few of them have host names.
        silent_s: A server silent for so long is asked again, `TRIES` times in all.
        long_silent_s: The same for copies and large parts, `LONG_TRIES` times in all.

    Raises:
        ConfigError: a client cannot be made.
    """
    try:
        session = Session()
        region = session.get_config_variable("region") or REGION
        quick, patient = (
            session.create_client("s3", region_name=region, endpoint_url=endpoint, config=config)
            for config in (_config(endpoint, silent_s, TRIES), _config(endpoint, long_silent_s, LONG_TRIES))
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"No client for the bucket {name!r} can be made: {error}") from error
    return Bucket(quick, name, prefix, patient)


def _config(endpoint: str | None, read_timeout_s: float, tries: int) -> Config:
    return Config(
        connect_timeout=CONNECT_S,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": tries},
        max_pool_connections=CONNECTIONS,
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        # Checksums are ours, in plain headers; the newer default streams them in a way that older servers refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="npt-service",
    )
