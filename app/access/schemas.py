"""Keys as the API tells them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.access.records import KeyState, StoredKey
from app.access.repository import Wanted
from app.schemas import WHEN, Answer

KEY_ID = "key_06dzj3x8m4q9t2v7k1c5w8n0ra"
_EXAMPLE: dict[str, Any] = {
    "id": KEY_ID,
    "label": "the shop's camera",
    "scopes": ["predict"],
    "state": "active",
    "created_at": WHEN,
    "created_by": "key_06dzj2m1p6h2s9y4d8e3g7b5f0",
    "expires_at": None,
    "revoked_at": None,
    "revoked_by": None,
    "requests_per_minute": 600,
    "burst": None,
    "upload_bytes_per_day": None,
}


class NewKey(BaseModel):
    """What a new key shall be."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"label": "the shop's camera", "scopes": ["predict"]}}
    )

    scopes: list[Literal["tune", "predict", "admin"]] = Field(
        min_length=1, description="What it may do; `admin` includes the others."
    )
    label: str = Field(default="", description="What people call it.")
    expires_at: AwareDatetime | None = Field(default=None, description="When it ends; never where null.")
    requests_per_minute: int | None = Field(
        default=None, description="Its own rate; null: this server's default, 0: no limit."
    )
    burst: int | None = Field(
        default=None, description="Requests it may save up and send at once; null: this server's default."
    )
    upload_bytes_per_day: int | None = Field(
        default=None, description="Its own quota; null: this server's default, 0: no limit."
    )

    def wanted(self) -> Wanted:
        """The same for the repository. Raises ConfigError."""
        return Wanted(**(self.model_dump() | {"scopes": tuple(self.scopes)}))


class Key(Answer):
    """An API key, without the key itself: nobody can be told that again."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    id: str
    label: str
    scopes: list[str]
    state: KeyState
    created_at: datetime
    created_by: str = Field(description="Id of the key that asked for it; `command`; `local` on an open server.")
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    requests_per_minute: int | None = Field(description="null: this server's default, 0: no limit.")
    burst: int | None = Field(description="null: this server's default.")
    upload_bytes_per_day: int | None = Field(description="null: this server's default, 0: no limit.")

    @classmethod
    def of(cls, stored: StoredKey, now: datetime, **more: str) -> Self:
        """A stored key as it is now."""
        record, end = stored.record, stored.end
        known = record.model_dump(exclude={"digest"}) | {"state": stored.state(now), "scopes": list(record.scopes)}
        ended = {"revoked_at": end and end.revoked_at, "revoked_by": end and end.revoked_by}
        return cls.model_validate(known | ended | more)


class MadeKey(Key):
    """A key that was just made."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": _EXAMPLE | {"key": "npt_06dzj3x8m4q9t2v7k1c5w8n0ra_Q0h5V3c0b2t1bU1xZ2pXb0Jrc3l6Tm5FdkRhR3J"}
        }
    )

    key: str = Field(description="The key itself. It is shown this once and kept nowhere.")
