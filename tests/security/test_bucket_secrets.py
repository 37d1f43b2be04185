"""Credentials of a bucket, and the password of a Redis over TLS, are told nobody, whatever the service goes through.

At DEBUG: the bucket's client library would then write down every request it signs, a session's token among the headers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.security.leaks import files_below, leaks
from tests.support.api import coloured_zip
from tests.support.line import Line, running_line
from tests.support.machines import start
from tests.support.s3_server import S3Server, running_s3
from tests.support.service import ROOT, Service, running_service, wait_for
from tests.support.tls_redis import PASSWORD, tls_redis
from tests.support.zips import picture
from worker.store.s3.connecting import connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # one life of a service, lived before the first test

KEY = "a-key-of-the-bucket-service-82d6"
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIATHEKEYOFITSBUCKET",
    "AWS_SECRET_ACCESS_KEY": "The/Secret+Of/ItsBucket5e0c",
    "AWS_SESSION_TOKEN": "The+Token/Of+ItsSession==b41a",
}
SECRETS = (KEY, PASSWORD, *AWS.values())
CONFIG = json.dumps({"epochs": 2, "views": 1})


class Life:
    """One service on a bucket and a Redis that can both be cut off; what it said to anybody, by who was told."""

    def __init__(self, service: Service, settings: dict[str, str], store: Line, redis: Line) -> None:
        self.service, self.settings, self.store, self.redis = service, settings, store, redis
        self.client = httpx.Client(base_url=service.url, timeout=120, headers={"X-API-Key": KEY})
        self.told: dict[str, str] = {}

    def ask(self, when: str, method: str, path: str, **options: object) -> httpx.Response:
        answer = self.client.request(method, path, **options)  # type: ignore[arg-type]
        self.told[f"{method} {path} {when}"] = f"{answer.headers} {answer.text}"
        return answer

    def look_around(self, when: str) -> None:
        """Everything that says how the service is, and some of what it does."""
        for path in ("/readyz", "/livez", "/metrics", "/jobs", "/models", "/datasets", "/keys", "/backbones"):
            self.ask(when, "GET", path)
        self.ask(when, "GET", "/datasets/" + "0" * 64)
        self.tune(when)

    def tune(self, when: str, seed: int = 900) -> httpx.Response:
        files = {"dataset": ("a.zip", coloured_zip(4, first_seed=seed))}
        return self.ask(when, "POST", "/tune", files=files, data={"config": CONFIG})

    def run(self, name: str, *arguments: str, **changes: str) -> int:
        """A command of the operator, in the environment of the service; its exit code."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
        env |= self.settings | {"NPT_DATA_DIR": str(self.service.data)} | changes
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        self.told[name] = done.stdout + done.stderr
        return done.returncode

    def ready(self) -> None:
        wait_for("the service to be ready again", lambda: self.client.get("/readyz").status_code == 200, 120)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3() as running:
        yield running


@pytest.fixture(scope="module")
def life(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder, name = tmp_path_factory.mktemp("bucket"), server.make_bucket()
    with (
        tls_redis(folder / "redis") as redis,
        running_line(server.url) as store,
        running_line(f"tcp://127.0.0.1:{redis.port}") as wire,
    ):
        port = int(wire.url.rpartition(":")[2])
        settings = {
            **server.settings(name),
            **AWS,
            "NPT_S3_ENDPOINT": store.url,
            "NPT_REDIS_URL": redis.url().replace(f":{redis.port}/", f":{port}/"),
            "NPT_API_KEYS": KEY,
            "NPT_BACKBONE": "demo",
            "NPT_DEVICE": "cpu",
            "NPT_LOG_JSON": "true",
            "NPT_LOG_LEVEL": "DEBUG",
            "NPT_MIN_FREE_BYTES": "0",
        }
        with running_service(folder / "data", **settings) as service:
            one = Life(service, settings, store, wire)
            with one.client:
                yield one


@pytest.fixture(scope="module")
def lived(life: Life) -> Life:
    """After a tuning, refusals, a bucket and a Redis that went away, and what an operator runs."""
    job = life.tune("at first", 7)
    assert job.status_code == 202, job.text

    def ended() -> dict[str, str] | None:
        found: dict[str, str] = life.client.get(f"/jobs/{job.json()['id']}").json()
        return found if found["status"] in ("succeeded", "failed") else None

    record = wait_for("the job to end", ended, 240)
    assert record["status"] == "succeeded", record
    model = record["model_id"]
    files = {"images": ("a.png", picture(1))}
    assert life.ask("at first", "POST", "/predict", files=files, data={"model": model}).status_code == 200
    life.ask("at first", "GET", f"/models/{model}/report")
    life.ask("at first", "POST", "/datasets", content=b"no zip", headers={"Content-Type": "application/zip"})
    life.ask("without a key", "GET", "/models", headers={"X-API-Key": "x" * 40})
    life.look_around("while all is well")
    assert life.run("doctor", "doctor", "--no-load", "--json") == 0
    assert life.run("verify", "verify") == 0
    assert life.run("keys", "keys", "list") == 0

    life.store.cut()
    assert life.client.get("/readyz").status_code == 503
    life.look_around("without the bucket")
    assert life.run("doctor without the bucket", "doctor", "--no-load") == 1
    life.store.mend()
    life.ready()

    life.redis.cut()
    wait_for("Redis to be missed", lambda: life.client.get("/readyz").status_code == 503, 60)
    life.look_around("without Redis")
    assert life.run("doctor without Redis", "doctor", "--no-load") == 1
    life.redis.mend()
    life.ready()
    return life


def test_it_is_the_bucket_that_it_lived_on(lived: Life, server: S3Server) -> None:
    objects = {key: content for key, content in _objects(lived, server).items() if "/models/" in f"/{key}"}
    assert objects
    assert not (lived.service.data / "models").exists()


def test_no_log_and_no_answer_tells_a_secret(lived: Life) -> None:
    log = lived.service.log.read_text(errors="replace")
    assert '"level": "debug"' in log
    assert "The bucket cannot be reached" in "".join(lived.told.values()) + log
    assert leaks(SECRETS, lived.told | {"the log": log}) == []
    assert "Signature=" not in log


def test_no_command_line_holds_a_secret(lived: Life) -> None:
    commands = {str(pid): command for pid, command in lived.service.processes().items()}
    assert len(commands) >= 3
    assert leaks(SECRETS, commands) == []


def test_no_file_and_no_object_holds_a_secret(lived: Life, server: S3Server) -> None:
    objects = _objects(lived, server)
    assert len(objects) > 5
    assert leaks(SECRETS, objects | files_below(lived.service.data)) == []


def _objects(lived: Life, server: S3Server) -> dict[str, bytes]:
    name, _, prefix = lived.settings["NPT_STORE_URL"].removeprefix("s3://").partition("/")
    bucket = connect(name, prefix, server.url)
    return {one.key: bucket.get(one.key) for one in bucket.list("")}


@pytest.mark.parametrize("argv", [("worker",), ("app",), ("app", "doctor", "--no-load")])
def test_a_bucket_that_lets_nobody_in_is_told_of_without_them(
    lived: Life, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    with running_s3(strict=True) as strict:
        name = strict.make_bucket()
        settings = lived.settings | strict.settings(name) | AWS | {"NPT_ROLE": "api", "NPT_PORT": "0"}
        machine = start("m", tmp_path / "data", settings, *argv)
        assert machine.process.wait(100) in (1, 2)
    said = machine.text()
    assert "403" in said, said
    assert leaks(SECRETS, {"what it said": said}) == []


@pytest.mark.parametrize("text", ["X {}", "https://user:{}@host", '{{"password": "{}"}}'])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_leak_would_be_seen(secret: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text(text.format(secret))
    assert len(leaks(SECRETS, files_below(tmp_path))) == 1
    assert leaks(SECRETS, {"it": text.format("x")}) == []
