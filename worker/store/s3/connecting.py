"""The way to a bucket. Credentials, region and CA are found by the client library where it always looks: AWS_*."""

from __future__ import annotations

from botocore.config import Config
from botocore.session import Session

from npt_core.errors import ConfigError
from worker.store.s3.bucket import TRIES, Bucket
from worker.store.s3.failures import BotoCoreError

REGION = "us-east-1"
"""Servers that are not AWS have no regions, and take this one."""
CONNECTIONS = 32


def connect(name: str, prefix: str, endpoint: str | None = None, *, read_timeout_s: float = 60.0) -> Bucket:
    """A bucket, not asked for anything yet.

    Args:
        name: Of the bucket.
        prefix: Before every key.
        endpoint: Of a server that is not AWS; its buckets are named in the path, as few of them have host names.
        read_timeout_s: A server silent for so long is asked again.

    Raises:
        ConfigError: a client cannot be made.
    """
    config = Config(
        connect_timeout=5,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        max_pool_connections=CONNECTIONS,
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        # Checksums are ours, in plain headers; the newer default streams them in a way that older servers refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="npt-service",
    )
    try:
        session = Session()
        region = session.get_config_variable("region") or REGION
        client = session.create_client("s3", region_name=region, endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"No client for the bucket {name!r} can be made: {error}") from error
    return Bucket(client, name, prefix)
