"""The way to a bucket. Credentials, region and CA are found by the client library where it always looks: AWS_*."""

from __future__ import annotations

from functools import partial
from typing import Any

from botocore.config import Config
from botocore.exceptions import ConnectionClosedError
from botocore.session import Session

from npt_core.errors import ConfigError
from worker.store.s3.bucket import LONG_TRIES, Bucket
from worker.store.s3.failures import BotoCoreError
from worker.store.s3.writing import TRIES

REGION = "us-east-1"
"""Servers that are not AWS have no regions, and take this one."""
CONNECTIONS = 32
OF_AN_OBJECT = ("ETag", "ContentLength", "LastModified")
ALWAYS = {"GetObject": OF_AN_OBJECT, "HeadObject": OF_AN_OBJECT, "PutObject": ("ETag",), "UploadPart": ("ETag",)}
"""What every server says in the headers of an answer."""
CUT_OFF_PAUSE_S = 0.1
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
        for client, tries in ((quick, TRIES), (patient, LONG_TRIES)):
            client.meta.events.register("needs-retry.s3", partial(_again_if_cut_off, tries))
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


def _again_if_cut_off(tries: int, response: Any, attempts: int, operation: Any, **_: object) -> float | None:
    """Seconds until an answer that ended in its headers is asked for again: the client library takes it for whole."""
    if response is None:
        return None
    http, parsed = response
    if http.status_code >= 300 or all(field in parsed for field in ALWAYS.get(operation.name, ())):
        return None
    if attempts >= tries:
        raise ConnectionClosedError(endpoint_url=http.url)
    return CUT_OFF_PAUSE_S
