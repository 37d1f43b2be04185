"""Settings of the worker floor: where the data lies, which Redis, which backbones, every limit.

Read from `NPT_*` environment variables, in this one place. The app floor composes these settings and adds HTTP.
"""

from __future__ import annotations

import re
import socket
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

GIB = 1024**3
MIB = 1024**2
STORE_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9_-][A-Za-z0-9._/-]{0,200}?))?/?")
ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+/?")


class WorkerSettings(BaseSettings):
    """Everything the worker floor can be told; every field is `NPT_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="NPT_", extra="ignore", frozen=True, validate_default=True)

    # Where things are
    data_dir: Path = Field(
        default=Path("data"), description="Folder of everything durable: data sets, jobs, models, caches."
    )
    store_url: str | None = Field(
        default=None,
        description="A bucket that holds everything durable in place of DATA_DIR, for several machines: "
        "s3://BUCKET or s3://BUCKET/PREFIX. Credentials and region are those of AWS_* variables. Unset: DATA_DIR.",
    )
    s3_endpoint: str | None = Field(
        default=None,
        description="Address of an S3-compatible server that is not AWS: https://HOST:PORT. AWS_CA_BUNDLE names the "
        "CA of its certificate.",
    )
    s3_cache_bytes: int = Field(
        default=8 * GIB,
        ge=0,
        description="Room in DATA_DIR/cache for what was read from the bucket as files; the least used ones go first.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey to use: redis://, rediss:// or unix:///path; with TLS, ?ssl_ca_certs=/path names "
        "the CA. Unset: the service starts its own.",
    )
    redis_prefix: str = Field(
        default="npt",
        pattern=r"^[a-z0-9_-]{1,32}$",
        description="First part of every Redis key; two services may share one Redis.",
    )
    node: str = Field(
        default_factory=socket.gethostname,
        description="Unique name of this machine or container: a worker frees a dead predecessor's jobs at once.",
    )

    # What it computes with
    backbone: str | None = Field(
        default=None, description="The backbone offered first, for instance demo or ViT-B-16/laion2b_s34b_b88k."
    )
    backbones: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Further backbones a request may pick, comma separated: demo, <architecture>/<pretrained>, "
        "hf-hub:<name>, local:NAME=ARCH@/path.",
    )
    device: str = Field(default="auto", description="auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1 or mps.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="Precision of the frozen towers."
    )
    weights_dir: Path | None = Field(
        default=None, description="Where downloaded weights are kept. Unset: DATA_DIR/weights."
    )
    features_dir: Path | None = Field(
        default=None,
        description="Where computed image features are kept. Unset: DATA_DIR/features. Machines that share DATA_DIR "
        "need a local folder each: the file in it cannot be shared over a network.",
    )
    torch_threads: int = Field(
        default=0, ge=0, le=1024, description="CPU threads of one worker; 0 leaves the choice to torch."
    )
    step_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Memory that one step of a tuning may take; more class names or pictures than fit are computed in "
        "chunks, which takes longer. 0: half of what is free, on the CPU at most 2 GiB.",
    )
    warm_up: bool = Field(
        default=True, description="Load the first backbone when the worker starts, before the first job asks for it."
    )

    # Jobs
    queue: str = Field(
        default="default", pattern=r"^[a-z0-9_-]{1,32}$", description="Name of the Celery queue a worker listens on."
    )
    lease_ttl_s: float = Field(
        default=45.0, ge=0.5, le=3600, description="A worker silent for this long has lost its job."
    )
    max_charges: int = Field(
        default=3,
        ge=1,
        le=100,
        description="A job that kills its worker this often, with no progress between, is given up.",
    )
    job_deadline_s: float = Field(default=6 * 3600.0, gt=0, description="One attempt at a job may take this long.")
    stall_s: float = Field(
        default=600.0, gt=0, description="A running job without a single step for this long fails as stalled."
    )
    stop_grace_s: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="A job told to stop (shutdown, lost lease) has this long before it is killed.",
    )
    reap_every_s: float = Field(default=5.0, gt=0, le=300, description="How often dead leases are looked for.")
    watch_every_s: float = Field(
        default=0.5, gt=0, le=30, description="How often a worker looks after its own child process."
    )

    # Progress
    events_max: int = Field(default=1000, ge=10, description="Progress events kept for one job (about).")
    events_ttl_s: int = Field(
        default=24 * 3600, ge=60, description="Progress of a job is kept this long after its last event."
    )
    progress_per_s: float = Field(default=10.0, gt=0, description="At most this many progress events a second and job.")

    # Room
    min_free_bytes: int = Field(
        default=GIB, ge=0, description="Free space that must remain on the data volume after an upload."
    )
    max_store_bytes: int = Field(
        default=0,
        ge=0,
        description="The most that data sets, models, jobs, feedback and uploads may take together; beyond it 507. "
        "0: no limit.",
    )
    feature_cache_bytes: int = Field(
        default=4 * GIB, ge=0, description="Room for cached image features; the least used ones go first."
    )
    onnx_cache_bytes: int = Field(
        default=4 * GIB, ge=0, description="Room for models written as ONNX; the least used ones go first."
    )
    feedback_bytes: int = Field(
        default=GIB,
        ge=0,
        description="Room for the pictures kept as feedback, for each model; the oldest ones go first.",
    )
    onnx_timeout_s: float = Field(default=900.0, gt=0, description="Writing a model as ONNX may take this long.")
    keep_datasets_days: float = Field(
        default=0.0,
        ge=0,
        description="Data sets that no model and no unfinished job needs go when they were not used for so many days; "
        "0: they stay.",
    )
    keep_jobs_days: float = Field(
        default=0.0,
        ge=0,
        description="Records and results of jobs go so many days after their end, their models stay; 0: they stay.",
    )
    part_ttl_s: float = Field(
        default=6 * 3600.0, ge=0, description="Unfinished uploads older than this are swept away."
    )
    idempotency_ttl_s: float = Field(
        default=24 * 3600.0, ge=60, description="An Idempotency-Key is remembered this long."
    )

    # What an archive may be
    max_archive_bytes: int = Field(default=2 * GIB, ge=1, description="Largest data set archive.")
    max_entries: int = Field(default=100_000, ge=1, description="Most entries in one archive.")
    max_entry_bytes: int = Field(default=256 * MIB, ge=1, description="Largest single file in an archive, unpacked.")
    max_total_bytes: int = Field(default=8 * GIB, ge=1, description="Largest archive, unpacked.")
    max_ratio: float = Field(default=200.0, ge=1, description="Highest compression ratio of a file above 1 MB.")

    # Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="What is logged.")
    log_json: bool | None = Field(
        default=None, description="One JSON object a line. Unset: JSON unless the output is a terminal."
    )

    @field_validator("backbones", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator(
        "backbone",
        "redis_url",
        "store_url",
        "s3_endpoint",
        "weights_dir",
        "features_dir",
        "log_json",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("store_url")
    @classmethod
    def _bucket(cls, value: str | None) -> str | None:
        if value is not None and not STORE_URL.fullmatch(value):
            raise ValueError("must be s3://BUCKET or s3://BUCKET/PREFIX, of letters, digits and . _ -")
        return value

    @field_validator("s3_endpoint")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        if value is not None and not ENDPOINT.fullmatch(value):
            raise ValueError("must be http://HOST:PORT or https://HOST:PORT, with no path and no password in it")
        return value

    @field_validator("data_dir", "weights_dir", "features_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @model_validator(mode="after")
    def _named(self) -> WorkerSettings:
        if not self.node or len(self.node) > 128:
            raise ValueError("NPT_NODE must be 1 to 128 characters")
        return self

    @property
    def backbone_entries(self) -> tuple[str, ...]:
        """Every backbone the operator configured, the default one first; `demo` where nothing was named."""
        named = ((self.backbone,) if self.backbone else ()) + self.backbones
        return tuple(dict.fromkeys(named)) or ("demo",)

    @property
    def weights_path(self) -> Path:
        return self.weights_dir or self.data_dir / "weights"

    @property
    def features_path(self) -> Path:
        return self.features_dir or self.data_dir / "features"

    def place(self, folder: str) -> str:
        """Where a folder of the store is, for a person to read."""
        return f"{self.store_url.rstrip('/')}/{folder}" if self.store_url else str(self.data_dir / folder)

    @property
    def run_dir(self) -> Path:
        """What exists only while something runs: sockets, locks, process marks."""
        return self.data_dir / "run"

    @property
    def redis_address(self) -> str:
        """The Redis to use; the embedded broker's socket where none was named. May hold a password: never log it."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        return f"unix://{self.run_dir / 'redis.sock'}"


@lru_cache(maxsize=1)
def get_settings() -> WorkerSettings:
    """The settings of this process, read from the environment once."""
    return WorkerSettings()


def faults_in(error: ValidationError) -> list[str]:
    """What is wrong with the settings, a line each, without what was set: passwords are among it."""
    faults = []
    for fault in error.errors(include_url=False, include_input=False):
        name = "_".join(str(part) for part in fault["loc"][:1]).upper()
        faults.append(f"NPT_{name}: {fault['msg']}" if name else fault["msg"])
    return faults
