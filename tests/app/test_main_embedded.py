"""The real `python -m app` on a free port, in a folder of its own: what starts, what comes back, what is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.ports import free_port
from tests.support.processes import family, wait_gone
from tests.support.service import ROOT, Service, running_service, wait_for
from tests.support.zips import classes, write_zip

KEPT = {"broker.log", "service.lock", "locks", "swept", "usage.json"}
"""What a service that has ended leaves in DATA/run: a log, locks nobody holds, when it was swept, how large it was."""


def run_app(timeout_s: float = 60, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m app` where it is expected to end by itself."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("NPT_")} | settings
    return subprocess.run(
        [sys.executable, "-m", "app"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s
    )


def child(service: Service, *words: str) -> psutil.Process:
    """The one direct child of the supervisor whose command line holds every word."""
    found = [
        p for p in psutil.Process(service.process.pid).children() if all(w in " ".join(p.cmdline()) for w in words)
    ]
    assert len(found) == 1, f"{words}: {[p.cmdline() for p in found]}"
    return found[0]


WORKER, API, BROKER = ("-m worker",), ("-m app", "--listen-fd"), ("valkey-server",)


def is_ready(service: Service) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return service.client.get("/readyz").status_code == 200
    return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("app") / "data") as running:
        yield running


def test_it_says_where_it_listens(service: Service) -> None:
    log = wait_for("the banner", lambda: text if "is ready" in (text := service.log.read_text()) else None)
    assert service.url in log
    assert f"{service.url}/docs" in log
    assert str(service.data) in log
    assert "Ctrl-C" in log


def test_a_second_one_on_the_folder_is_refused_with_the_first_ones_number(service: Service) -> None:
    second = run_app(NPT_DATA_DIR=str(service.data), NPT_PORT="0")
    assert second.returncode == 1
    assert f"process {service.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert is_ready(service)


def test_a_taken_port_is_said_before_anything_starts(service: Service, tmp_path: Path) -> None:
    refused = run_app(NPT_DATA_DIR=str(tmp_path / "other"), NPT_PORT=service.url.rpartition(":")[2])
    assert refused.returncode == 1
    assert "NPT_PORT" in refused.stderr
    assert not (tmp_path / "other" / "redis").exists()


@pytest.mark.parametrize("which", [WORKER, BROKER, API], ids=["worker", "broker", "api"])
def test_what_is_killed_comes_back(service: Service, which: tuple[str, ...]) -> None:
    killed = child(service, *which)
    members = family(killed.pid)
    killed.kill()
    wait_gone(members)

    def back() -> bool:
        with contextlib.suppress(AssertionError, psutil.NoSuchProcess):
            return child(service, *which).pid != killed.pid and is_ready(service)
        return False

    wait_for(f"{which} to be back", back)


def test_everything_it_runs_is_in_its_own_session(service: Service) -> None:
    for which in (WORKER, BROKER, API):
        process = child(service, *which)
        assert os.getsid(process.pid) == process.pid


def test_kill_9_leaves_nothing_the_folder_serves_again_and_ctrl_c_leaves_nothing_either(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_service(data) as service:
        members = family(service.process.pid)
        assert len(members) >= 5  # itself, guard, broker, worker, API; the worker's child may still be on its way
        service.process.kill()
        service.process.wait()
        wait_gone(members)
    (damaged,) = (data / "redis" / "appendonlydir").glob("*.incr.aof")
    damaged.write_bytes(b"this is no append-only file\n")

    with running_service(data) as again:
        assert is_ready(again)
        assert (data / "redis.unreadable").exists()
        members = family(again.process.pid)
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(60) == 0
        wait_gone(members)
        with pytest.raises(httpx.TransportError):
            again.client.get("/livez")
    assert {path.name for path in (data / "run").iterdir()} - KEPT == set()
    assert "does not stop" not in again.log.read_text()


def test_the_api_alone_uses_the_broker_it_is_given_and_an_open_stream_does_not_hold_it(
    service: Service, tmp_path: Path
) -> None:
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith("NPT_")} | {
        "NPT_ROLE": "api",
        "NPT_PORT": str(port),
        "NPT_DATA_DIR": str(service.data),
        "NPT_REDIS_URL": f"unix://{service.data}/run/redis.sock",
    }
    archive = write_zip(tmp_path / "pictures.zip", classes("red", "blue", images=6)).read_bytes()
    accepted = service.tune(archive, {"epochs": 5000, "views": 1})
    assert accepted.status_code == 202, accepted.text
    job = accepted.json()["id"]
    process = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            def live() -> bool:
                assert process.poll() is None
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/livez").status_code == 200
                return False

            wait_for("the API to be live", live)
            assert len(family(process.pid)) == 1  # no broker, no worker
            with client.stream("GET", f"/jobs/{job}/events") as stream:
                assert stream.status_code == 200
                next(stream.iter_lines())
                process.terminate()
                assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        service.client.post(f"/jobs/{job}/cancel")
