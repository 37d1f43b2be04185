"""Whether a bucket will do, found out once when a process starts rather than in the middle of a job."""

from __future__ import annotations

import secrets
import time

from npt_core.errors import ConfigError
from worker.errors import WorkerError
from worker.store.base import StoreUnavailable
from worker.store.s3.bucket import Bucket
from worker.store.s3.failures import BotoCoreError, ClientError, said

WAIT_S = 10.0
PROBE = "probe"
"""Folder of the objects it is tried with."""


def check(bucket: Bucket, *, wait_s: float = WAIT_S) -> None:
    """Ask for the bucket, write, and see that conditions are heeded.

    Raises:
        ConfigError: it is not there, does not let us in, ignores conditions, or does not answer within
            `wait_s` and what the tries take that are under way then.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            bucket.client.head_bucket(Bucket=bucket.name)
            break
        except ClientError as error:
            raise _refused(bucket, *said(error)) from None
        except BotoCoreError as error:
            name = type(error).__name__
            if "Credentials" in name:
                raise ConfigError(
                    "There are no credentials for the bucket of NPT_STORE_URL; set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, or give this machine a role."
                ) from None
            if time.monotonic() > deadline:
                where = bucket.client.meta.endpoint_url
                raise ConfigError(
                    f"The bucket {bucket} cannot be reached at {where} ({name}); start the server, correct "
                    "NPT_S3_ENDPOINT, or name the CA of its certificate in AWS_CA_BUNDLE."
                ) from None
        time.sleep(0.2)
    try:
        _try_conditions(bucket)
    except StoreUnavailable as error:
        raise ConfigError(
            f"The bucket {bucket} is there, and cannot be written to: {error} These credentials need the rights to "
            "list, read, write and delete."
        ) from None
    except WorkerError as error:
        raise ConfigError(f"The bucket {bucket} does not give back what was written to it: {error.message}") from None


def _refused(bucket: Bucket, code: str, status: int) -> ConfigError:
    if status == 404:
        return ConfigError(
            f"There is no bucket {bucket.name!r} at {bucket.client.meta.endpoint_url}; make it, or correct "
            "NPT_STORE_URL, NPT_S3_ENDPOINT or the region in AWS_DEFAULT_REGION."
        )
    if status in (400, 401, 403):
        return ConfigError(
            f"The bucket {bucket.name!r} refuses the credentials ({status}); correct AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or give them the rights to list, read, write and delete there."
        )
    return ConfigError(f"The bucket {bucket.name!r} answers {status} {code}; correct NPT_STORE_URL.")


def _try_conditions(bucket: Bucket) -> None:
    """Who comes first must be decided by the bucket: without that, two machines could each believe it was first."""
    key = f"{PROBE}/{secrets.token_hex(16)}"
    try:
        first = bucket.put(key, b"1", create_only=True)
        created_twice = bucket.put(key, b"2", create_only=True) is not None
        changed = bucket.put(key, b"3", match=first) if first is not None else None
        changed_late = bucket.put(key, b"4", match=first) is not None if first is not None else True
        if first is None or created_twice or changed is None or changed_late or bucket.get(key) != b"3":
            raise ConfigError(
                f"The server of the bucket {bucket} ignores conditional writes (If-None-Match, If-Match), by which "
                "machines agree who came first; use one that heeds them, as AWS S3 does, or a bucket without "
                "versioning, with which some heed none."
            )
    finally:
        bucket.delete([key])
