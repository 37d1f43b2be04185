"""What is known of objects of a bucket without their bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

SHA256, MARK = "sha256", "mark"
"""Names in the metadata that every object of ours has."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Head:
    """What is known of an object without reading it."""

    key: str
    size: int
    etag: str
    modified: datetime
    metadata: Mapping[str, str]

    @property
    def sha256(self) -> str | None:
        """Of its bytes, in hex; None where somebody else wrote it."""
        found = self.metadata.get(SHA256, "")
        return found if _SHA256.fullmatch(found) else None

    @property
    def content(self) -> str:
        """Hex that changes with its bytes, fit for a file name."""
        return self.sha256 or hashlib.sha256(self.etag.encode()).hexdigest()


@dataclass(frozen=True)
class Listed:
    """An object in a listing."""

    key: str
    size: int
    modified: datetime
