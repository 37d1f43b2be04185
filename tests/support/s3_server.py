"""A real S3 server over HTTP for tests, and the settings to reach it with."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.store.s3.bucket import Bucket
from worker.store.s3.connecting import connect

ROOT = Path(__file__).parents[2]
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "very-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class S3Server:
    """One server process. `strict`: after the first request it lets in only users it knows, of which it has none."""

    def __init__(self, *options: str, strict: bool = False) -> None:
        env = os.environ | ({"INITIAL_NO_AUTH_ACTION_COUNT": "1"} if strict else {})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.s3_main", *options],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the S3 server of the tests did not start"
        scheme = "https" if any(option.startswith("--tls=") for option in options) else "http"
        self.url = f"{scheme}://127.0.0.1:{int(line)}"

    def make_bucket(self) -> str:
        """A new, empty bucket; its name."""
        name = f"npt-{secrets.token_hex(8)}"
        connect(name, "", self.url).client.create_bucket(Bucket=name)
        return name

    def bucket(self, prefix: str = "store") -> Bucket:
        """A new bucket, reached directly."""
        return connect(self.make_bucket(), prefix, self.url)

    def settings(self, bucket: str) -> dict[str, str]:
        """Variables of a process whose store is that bucket."""
        return {"NPT_STORE_URL": f"s3://{bucket}/some/prefix", "NPT_S3_ENDPOINT": self.url, **CREDENTIALS}

    def close(self) -> None:
        self.process.kill()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running_s3(*options: str, strict: bool = False) -> Iterator[S3Server]:
    """A server, with credentials for it in the environment of this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = S3Server(*options, strict=strict)
        try:
            yield server
        finally:
            server.close()
