"""Settings of the HTTP floor: the worker's own, and what only HTTP needs. Read from `NPT_*`, in this one place."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from app.pace import Pace
from npt_core.errors import ConfigError
from worker.settings import GIB, MIB, WorkerSettings

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """True where only this machine can connect."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class AppSettings(WorkerSettings):
    """Everything the API process can be told; every field is `NPT_` + its name in capitals."""

    # What this process is, where it listens, and to whom
    role: Literal["all", "api"] = Field(
        default="all", description="all: broker, worker and API in one command; api: the API alone."
    )
    host: str = Field(default="127.0.0.1", min_length=1, max_length=255, description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="API keys, comma separated: plain, or `sha256:` and the hex digest of the key.",
    )
    api_keys_file: Path | None = Field(default=None, description="A file of such keys, one a line; # starts a comment.")
    require_key: bool = Field(
        default=False,
        description="Answer nobody without a key, even before there is one: the server starts and waits for the first.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Further names this server is reached by (the Host header), comma separated."
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins of other sites whose pages may call the API, comma separated; none by default.",
    )

    # What a key may use up
    key_requests_per_minute: int = Field(
        default=6000, ge=0, le=1_000_000, description="Requests a minute of one API key; 0: no limit."
    )
    key_burst: int = Field(
        default=600, ge=1, le=1_000_000, description="Requests that a key may save up and send at once."
    )
    key_upload_bytes_per_day: int = Field(
        default=100 * GIB, ge=0, description="Bytes of archives that one API key may upload a day (UTC); 0: no limit."
    )

    # Uploads
    uploads_at_once: int = Field(default=4, ge=1, le=1000, description="Uploads received at once; more get 503.")
    upload_idle_s: float = Field(
        default=30.0,
        gt=0,
        description="An upload that sends nothing for this long is ended, and a connection on which no whole head of a "
        "request has arrived by then.",
    )
    upload_min_bytes_per_s: int = Field(
        default=16 * 1024,
        ge=0,
        description="An upload that falls NPT_UPLOAD_IDLE_S behind so many bytes a second is ended, and a reader of an "
        "answer that falls NPT_ANSWER_IDLE_S behind them; 0: no limit.",
    )
    answer_idle_s: float = Field(
        default=300.0,
        gt=0,
        description="A connection whose other side takes nothing of its answer for this long is ended. A proxy takes a "
        "slow reader's in lumps, a third of its buffer at a time: a minute and more between them.",
    )

    # Predictions
    max_images: int = Field(default=64, ge=1, le=10_000, description="Most images in one request.")
    max_image_bytes: int = Field(default=32 * MIB, ge=1, description="Largest image file.")
    max_predict_bytes: int = Field(default=256 * MIB, ge=1, description="Largest predict request.")
    predict_memory_bytes: int = Field(default=GIB, ge=1, description="Room for all predict requests at once.")
    max_labels: int = Field(default=1000, ge=2, description="Most class names in one request.")
    max_batch: int = Field(default=32, ge=1, le=4096, description="Most images in one run of the image tower.")
    max_pending: int = Field(default=512, ge=1, description="Images that may wait for one backbone; beyond it 503.")
    decode_threads: int = Field(default=0, ge=0, le=256, description="Threads that decode images; 0: one a core, to 8.")
    backbone_memory_bytes: int = Field(
        default=8 * GIB, ge=1, description="Room for loaded backbones, least used go first."
    )
    model_memory_bytes: int = Field(default=GIB, ge=1, description="Room for classifiers, least used go first.")
    preload: bool = Field(default=True, description="Load the first backbone when the server starts.")

    @field_validator("api_keys", "allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _no_file(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def upload_pace(self) -> Pace:
        """How slowly the body of a request may arrive."""
        return Pace(self.upload_idle_s, self.upload_min_bytes_per_s)

    @property
    def answer_pace(self) -> Pace:
        """How slowly an answer may be taken."""
        return Pace(self.answer_idle_s, self.upload_min_bytes_per_s)

    @property
    def is_public(self) -> bool:
        """True where other machines can connect."""
        return not is_loopback(self.host)

    @property
    def url(self) -> str:
        """How a browser on this machine reaches the server."""
        name = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound
        return f"http://[{name}]:{self.port}" if ":" in name else f"http://{name}:{self.port}"

    def key_entries(self) -> tuple[str, ...]:
        """Every configured key as written, from the environment and the file.

        Raises:
            ConfigError: The file cannot be read.
        """
        entries = [key.get_secret_value() for key in self.api_keys]
        if self.api_keys_file is not None:
            try:
                text = self.api_keys_file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"NPT_API_KEYS_FILE is {str(self.api_keys_file)!r} and cannot be read ({error}); "
                    "give a text file with one key a line."
                ) from error
            lines = (re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in text.splitlines())  # a#b is a key
            found = [line for line in lines if line]
            if not found:  # somebody meant to close the door
                raise ConfigError(
                    f"NPT_API_KEYS_FILE is {str(self.api_keys_file)!r} and holds no key; "
                    "write one key a line, or unset it."
                )
            entries.extend(found)
        return tuple(entries)


@lru_cache(maxsize=1)
def get_app_settings() -> AppSettings:
    """The settings of this process, read from the environment once."""
    return AppSettings()
