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
    """A server somewhere, reached with the credentials that are in the environment now."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        self._made: list[str] = []

    def _connect(self, name: str, prefix: str) -> Bucket:
        """With its own credentials, whatever servers were started since."""
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in self._credentials.items():
                patch.setenv(variable, value)
            return connect(name, prefix, self.url)

    def make_bucket(self) -> str:
        """A new, empty bucket; its name."""
        name = f"npt-{secrets.token_hex(8)}"
        self._connect(name, "").client.create_bucket(Bucket=name)
        self._made.append(name)
        return name

    def bucket(self, prefix: str = "store") -> Bucket:
        """A new bucket, reached directly."""
        return self._connect(self.make_bucket(), prefix)

    def settings(self, bucket: str) -> dict[str, str]:
        """Variables of a process whose store is that bucket; its credentials it has from this one."""
        return {"NPT_STORE_URL": f"s3://{bucket}/some/prefix", "NPT_S3_ENDPOINT": self.url}

    def close(self) -> None:
        """Remove what was made."""
        while self._made:
            whole = self._connect(name := self._made.pop(), "")
            for key, upload_id, _ in list(whole.unfinished()):
                whole.abort(key, upload_id)
            whole.delete([one.key for one in whole.list("")])
            whole.client.delete_bucket(Bucket=name)


class OwnS3Server(S3Server):
    """One process of `tests.support.s3_main`.

    Args:
        options: Of it.
        strict: After the first request it lets in only users it knows, of which it has none.
    """

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
        super().__init__(f"{scheme}://127.0.0.1:{int(line)}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running_s3(*options: str, strict: bool = False) -> Iterator[S3Server]:
    """A server of our own, with credentials for it in the environment of this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = OwnS3Server(*options, strict=strict)
        try:
            yield server
        finally:
            server.close()


@contextlib.contextmanager
def any_s3() -> Iterator[S3Server]:
    """The server that NPT_TEST_S3_ENDPOINT names, with the AWS_* of who asks; else one of our own."""
    url = os.environ.get("NPT_TEST_S3_ENDPOINT")
    if url is None:
        with running_s3() as server:
            yield server
        return
    server = S3Server(url)
    try:
        yield server
    finally:
        server.close()
