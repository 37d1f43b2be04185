"""32 clients predict while tunings queue, uploads run and listeners fall asleep: no error, and memory stays flat."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from benchmarks.over_http.load import Load, Outcome, run
from benchmarks.over_http.pictures import write_pictures
from tests.faults.record import times
from tests.faults.stack import CONFIG, Stack, pictures
from tests.support.service import wait_for

pytestmark = pytest.mark.timeout(1800)

SECONDS = times(120, 600)
CLIENTS, TUNINGS, LISTENERS = 32, 4, 8
MIB = 1024**2
GROWTH_MIB = 48
"""What the API may grow by between the two halves of the load: far less than it would with a leak, more than noise."""


class Uploads(threading.Thread):
    """Sends one data set after the other."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.stop, self.statuses = url, threading.Event(), Counter[int]()

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=120) as client:
            number = 0
            while not self.stop.is_set():
                number += 1
                body = pictures(600_000 + 100 * number, 20)
                answer = client.post("/datasets", content=body, headers={"Content-Type": "application/zip"})
                self.statuses[answer.status_code] += 1
                self.stop.wait(1)


class Memory(threading.Thread):
    """Looks at how much memory a process takes, once a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.stop = psutil.Process(pid), threading.Event()
        self.looks: list[tuple[float, float]] = []

    def run(self) -> None:
        began = time.monotonic()
        while not self.stop.wait(1):
            self.looks.append((time.monotonic() - began, self.process.memory_info().rss / MIB))

    def halves(self) -> tuple[float, float]:
        """Median MiB of the third and of the last quarter: the first half is for warming up."""
        quarter = len(self.looks) // 4
        third, last = self.looks[2 * quarter : 3 * quarter], self.looks[3 * quarter :]
        return statistics.median(mib for _, mib in third), statistics.median(mib for _, mib in last)

    def slope(self) -> float:
        """MiB a minute over the second half."""
        half = self.looks[len(self.looks) // 2 :]
        return 60 * statistics.linear_regression([at for at, _ in half], [mib for _, mib in half]).slope


@contextmanager
def asleep(url: str, job_id: str) -> Iterator[None]:
    """Listeners of a job that ask for its events and then read nothing."""
    address = urlsplit(url)
    sockets = []
    for _ in range(LISTENERS):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.connect((address.hostname, address.port))
        listener.sendall(f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        sockets.append(listener)
    try:
        yield
    finally:
        for listener in sockets:
            listener.close()


def test_under_load_there_is_no_error_and_memory_stays_flat(
    stack: Stack, tried: Callable[..., None], tmp_path: Path
) -> None:
    model = stack.reference()[0]["model_id"]
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_pictures(folder, 20)
    assert stack.api is not None
    said = stack.api.listen()
    jobs = [stack.tune(CONFIG | {"epochs": 40, "seed": seed}, name="under load") for seed in range(TUNINGS)]
    uploads, memory = Uploads(stack.url), Memory(stack.api.process.pid)
    with asleep(stack.url, jobs[0]), asleep(stack.url, jobs[-1]):
        uploads.start()
        memory.start()
        outcome = run(Load(stack.url, str(folder), [{"model": model}], clients=CLIENTS, seconds=SECONDS))
        memory.stop.set()
        uploads.stop.set()
        uploads.join(120)
        memory.join(10)
    judge(outcome, uploads.statuses)
    assert not said("Traceback")
    before, after = memory.halves()
    assert after - before < GROWTH_MIB, memory.looks
    ended = [stack.ended(job_id, 600) for job_id in jobs]
    assert {job["status"] for job in ended} == {"succeeded"}
    stack.check(jobs)
    wait_for("every listener to be let go", lambda: "npt_event_streams 0.0" in stack.client.get("/metrics").text)
    told = (
        f"no 5xx but {outcome.statuses.get('503', 0)} times 503 with Retry-After in {sum(outcome.statuses.values())}; "
        f"p50 {outcome.percentile(0.5):.2f} s, p99 {outcome.percentile(0.99):.2f} s; "
        f"API at {after:.0f} MiB, {memory.slope():+.1f} MiB a minute"
    )
    words = f"{CLIENTS} clients predict for {SECONDS} s, {TUNINGS} tunings queue, uploads run, listeners read nothing"
    tried(12, words, told)


def judge(outcome: Outcome, uploads: Counter[int]) -> None:
    assert set(outcome.statuses) <= {"200", "503"}, outcome.statuses
    assert outcome.retry_after, "a 503 without Retry-After"
    assert outcome.statuses["200"] > CLIENTS
    assert set(uploads) <= {200, 201, 503}, uploads
