"""Looking for secrets: in texts, in files, in command lines; as they are, and as programs like to write them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote


def forms(secret: str) -> set[bytes]:
    """A secret as it is, in an address, in JSON, and as base64 of it alone."""
    ways = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
    return {way.encode() for way in ways} | {base64.b64encode(secret.encode()).rstrip(b"=")}


def leaks(secrets: Iterable[str], places: Mapping[str, str | bytes]) -> list[str]:
    """Which secret is where: "its name's beginning in PLACE"."""
    wanted = {secret: forms(secret) for secret in secrets}
    return [
        f"{secret[:6]}... in {place}"
        for place, content in places.items()
        for secret, ways in wanted.items()
        if any(way in (content.encode() if isinstance(content, str) else content) for way in ways)
    ]


def files_below(folder: Path) -> Mapping[str, bytes]:
    """Every file, by its path; what goes away while it is looked for is not there."""
    return dict(_files(folder))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield str(path), path.read_bytes()
