"""Everything in one command: a broker of its own, one worker and the API, supervised, on one locked data folder."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from app.auth import keyring_of
from app.listener import listen
from app.routes.health import LOADING
from app.settings import AppSettings
from worker.broker import Broker, forget, resolve_broker
from worker.folderlock import FolderLock
from worker.logs import setup_logging
from worker.supervise import Command, Restart, Supervisor

WRONG_SETTINGS = 2  # exit code of a child, and of ours, that trying again cannot mend
API_LIVE_S = 120.0  # importing the stack from a cold disk; loading weights comes after /livez
WORKER_READY_S = 3.0
API_STOP_S = 10.0
WORKER_MARGIN_S = 5.0  # for what the worker does after its jobs have been told to stop
STILL_WAITING_S = 15.0
PROBE_S = 1.0


@dataclass(frozen=True)
class Address:
    """Where this machine reaches the API."""

    host: str
    port: int

    @classmethod
    def of(cls, listener: socket.socket) -> Address:
        host, port = listener.getsockname()[:2]
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
        return cls(local.get(host, host), port)

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def ask(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET; a status of 0 where nobody answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PROBE_S)
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read(65536)
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error).encode()
        finally:
            connection.close()

    def is_live(self) -> bool:
        return self.ask("/livez")[0] == http.HTTPStatus.OK


def run_embedded(settings: AppSettings, console: Console | None = None) -> int:
    """Run the service until it is told to stop.

    Returns:
        Exit code: 0 when it was told to stop, 130 when it was told twice.

    Raises:
        NPTError: it cannot start, or a part of it cannot be kept running.
    """
    setup_logging(settings)
    console = console or Console(highlight=False, soft_wrap=True)
    keyring = keyring_of(settings)  # an open server on a public address is refused before anything is started
    data = settings.data_dir.resolve()
    with (
        FolderLock(
            data, on_wait=lambda: console.print("Waiting for an earlier service on this folder to end.")
        ) as lock,
        contextlib.closing(listen(settings.host, settings.port)) as listener,
    ):
        address = Address.of(listener)
        url = settings.redis_url.get_secret_value() if settings.redis_url else None
        broker = resolve_broker(data, url)
        supervisor = Supervisor(
            commands(settings, broker, listener, address),
            keep_fds=[lock.fileno()],
            on_stopping=listener.close,  # ours, so that nobody waits in the queue of a server that is gone
        )
        with published(data / "run" / "service.json", address), stop_on_signals(supervisor, console) as signals:
            try:
                with supervisor:
                    if supervisor.wait_ready() and wait_until_ready(supervisor, address, console):
                        console.print(banner(settings, address, broker, data, is_open=keyring.is_open))
                    supervisor.join()
            finally:
                if broker.command is not None:
                    forget(data)
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            console.print("Stopped.")
        return 128 + signal.SIGINT if signals.count > 1 else 0


def commands(settings: AppSettings, broker: Broker, listener: socket.socket, address: Address) -> list[Command]:
    """Broker (if it is ours), worker, API: in the order of starting."""
    shared = {
        "NPT_DATA_DIR": str(settings.data_dir.resolve()),
        "NPT_REDIS_URL": broker.address.url,
        "NPT_PORT": str(address.port),
    }
    restart = Restart(final_codes=frozenset({WRONG_SETTINGS}))
    worker = Command(
        name="worker",
        argv=(sys.executable, "-m", "worker"),
        env=shared,
        settle_s=WORKER_READY_S,
        restart=restart,
        stop_timeout_s=settings.stop_grace_s + WORKER_MARGIN_S,
        holds_back=False,
    )
    api = Command(
        name="api",
        argv=(sys.executable, "-m", "app", "--listen-fd", str(listener.fileno())),
        env=shared | {"NPT_ROLE": "api"},
        ready=address.is_live,
        ready_timeout_s=API_LIVE_S,
        restart=restart,
        stop_timeout_s=API_STOP_S,
        pass_fds=(listener.fileno(),),
    )
    return [*([broker.command] if broker.command else []), worker, api]


def wait_until_ready(supervisor: Supervisor, address: Address, console: Console) -> bool:
    """Wait for /readyz, however long weights take to load, saying every now and then what it waits for.

    A backbone that cannot be loaded is said, and not waited for: everything else works.
    """
    say_at = time.monotonic() + STILL_WAITING_S
    while not supervisor.stopping():
        status, body = address.ask("/readyz")
        if status == http.HTTPStatus.OK:
            return True
        if trouble := backbone_trouble(body):
            console.print(f"[bold]Attention:[/] {escape(trouble)}.")
            return True
        if time.monotonic() > say_at:
            console.print(f"Still starting: {body.decode(errors='replace')[:300]}", markup=False)
            say_at += STILL_WAITING_S
        time.sleep(0.1)
    return False


def backbone_trouble(body: bytes) -> str | None:
    """What /readyz, not ready, says of a first backbone that cannot be loaded; None where it lacks something else."""
    try:
        checks = json.loads(body)["checks"]
        missing = {name for name, check in checks.items() if not check["ok"]}
        detail = str(checks["backbone"]["detail"])
    except (ValueError, KeyError, TypeError):
        return None
    return detail if missing <= {"backbone", "workers"} and detail != LOADING else None


def banner(settings: AppSettings, address: Address, broker: Broker, data: Path, *, is_open: bool) -> str:
    rows = {
        "API": address.url,
        "Docs": f"{address.url}/docs",
        "Data": str(data),
        "Backbone": f"{', '.join(settings.backbone_entries)} (device: {settings.device})",
        "Broker": str(broker.address),
        "Access": "open to this machine" if is_open else "with an API key",
    }
    lines = [f"  [dim]{name:<9}[/] {escape(value)}" for name, value in rows.items()]
    return "\n".join(["", "[bold]NPT Service[/] is ready.", *lines, "", "Ctrl-C ends it.", ""])


@contextlib.contextmanager
def published(path: Path, address: Address) -> Iterator[None]:
    """Say in a file where the service listens, for scripts that let it pick a port."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"url": address.url, "pid": os.getpid(), "port": address.port}) + "\n")
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


class Signals:
    """How often we were told to stop."""

    count = 0


@contextlib.contextmanager
def stop_on_signals(supervisor: Supervisor, console: Console) -> Iterator[Signals]:
    """The first signal drains, the second hastens."""
    seen = Signals()

    def handle(number: int, frame: object) -> None:
        seen.count += 1
        if seen.count == 1:
            supervisor.stop()
            # A handler runs between any two steps of what it interrupts: no locks, so no console here.
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), b"\nStopping; once more to end at once.\n")
        else:
            supervisor.hasten()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
