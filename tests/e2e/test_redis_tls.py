"""Redis over TLS with a user of its own: an API and a worker that do a job, and what is said where they cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines import Machine, api, start, worker
from tests.support.tls_redis import PASSWORD, TlsRedis, tls_redis


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    with tls_redis(tmp_path_factory.mktemp("tls") / "redis") as running:
        yield running


def test_a_job_runs(secure: TlsRedis, tmp_path: Path, digits: bytes) -> None:
    settings = {"NPT_REDIS_URL": secure.url()}
    with worker(tmp_path / "data", settings) as at_work, api(tmp_path / "data", settings) as service:
        job_id = service.tune(digits, {"epochs": 1, "views": 1}).json()["id"]
        with service.client.stream("GET", f"/jobs/{job_id}/events", timeout=120) as stream:
            told = "".join(stream.iter_text())
        assert "event: end" in told
        assert service.job(job_id)["status"] == "succeeded"
    for text in (at_work.text(), service.log.read_text()):
        assert PASSWORD not in text
        assert "NOPERM" not in text
        assert "redis does not answer" not in text


@pytest.mark.parametrize("argv", [("worker",), ("app",)])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ca": False}, ("certificate", "is not trusted", "?ssl_ca_certs=")),
        ({"password": "wrong-but-secret-too"}, ("refuses the user or password in NPT_REDIS_URL",)),
    ],
)
def test_what_is_wrong_is_said_at_the_start(
    secure: TlsRedis, tmp_path: Path, argv: tuple[str, ...], change: dict[str, object], words: tuple[str, ...]
) -> None:
    settings = {"NPT_REDIS_URL": secure.url(**change), "NPT_ROLE": "api", "NPT_PORT": "0"}  # type: ignore[arg-type]
    machine: Machine = start("m", tmp_path / "data", settings, *argv)
    assert machine.process.wait(100) in (1, 2)
    said = machine.text()
    for word in words:
        assert word in said
    assert PASSWORD not in said
    assert "wrong-but-secret-too" not in said
    assert "Traceback" not in said
