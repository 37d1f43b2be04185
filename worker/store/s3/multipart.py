"""Large objects, sent and copied in parts, several at a time; what is cut off leaves nothing that is paid for."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from worker.store.s3.failures import BotoCoreError, ClientError

MIB = 1024**2
PART_BYTES = 16 * MIB
"""A file of more bytes goes in parts of so many; the protocol asks for at least 5 MiB."""
COPY_BYTES = 1024 * MIB
"""An object of more bytes is copied in parts of so many; one copy may have 5 GiB."""
MOST_PARTS = 10_000
AT_ONCE = 4


def send(client: Any, place: Mapping[str, str], path: Path, extra: Mapping[str, Any]) -> Any:
    """Send a file. Each part carries its SHA-256, which the server compares.

    Args:
        client: Of botocore.
        place: Bucket and Key.
        path: The file; at most `AT_ONCE` parts of it are in memory.
        extra: For the object: its metadata.

    Returns:
        The server's answer to the completion.
    """
    size = path.stat().st_size
    step = max(PART_BYTES, -(-size // MOST_PARTS))
    part = partial(_send_part, client, place, path, step)
    return _in_parts(client, place, -(-size // step), part, {**extra, "ChecksumAlgorithm": "SHA256"})


def _send_part(
    client: Any, place: Mapping[str, str], path: Path, step: int, upload_id: str, number: int
) -> dict[str, Any]:
    with open(path, "rb") as file:
        data = os.pread(file.fileno(), step, (number - 1) * step)
    checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
    answer = client.upload_part(**place, UploadId=upload_id, PartNumber=number, Body=data, ChecksumSHA256=checksum)
    return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}


def copy(client: Any, source: Mapping[str, str], place: Mapping[str, str], size: int, extra: Mapping[str, Any]) -> Any:
    """Copy a large object within the server."""

    def part(upload_id: str, number: int) -> dict[str, Any]:
        first = (number - 1) * COPY_BYTES
        span = f"bytes={first}-{min(first + COPY_BYTES, size) - 1}"
        answer = client.upload_part_copy(
            **place, UploadId=upload_id, PartNumber=number, CopySource=dict(source), CopySourceRange=span
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    return _in_parts(client, place, -(-size // COPY_BYTES), part, extra)


def _in_parts(
    client: Any,
    place: Mapping[str, str],
    count: int,
    part: Callable[[str, int], dict[str, Any]],
    extra: Mapping[str, Any],
) -> Any:
    with _begun(client, place, extra) as upload_id:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="multipart") as pool:
            parts = list(pool.map(partial(part, upload_id), range(1, count + 1)))
        return client.complete_multipart_upload(**place, UploadId=upload_id, MultipartUpload={"Parts": parts})


@contextlib.contextmanager
def _begun(client: Any, place: Mapping[str, str], extra: Mapping[str, Any]) -> Iterator[str]:
    upload_id = client.create_multipart_upload(**place, **extra)["UploadId"]
    try:
        yield upload_id
    except BaseException:
        with contextlib.suppress(ClientError, BotoCoreError):  # a sweep finds it
            client.abort_multipart_upload(**place, UploadId=upload_id)
        raise
