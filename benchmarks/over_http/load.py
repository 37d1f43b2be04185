"""Clients in a process of their own, on threads, with bodies made beforehand: as little work as a client can do.

Called as `python -m benchmarks.over_http.load`, it reads one JSON object from standard input (see `Load`), writes one:
for each request the client's number, when it was sent, how long it took and its status.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
PAUSE_S = 0.25
"""After a 503: far less than it asks for, and long enough that the refused do not keep a core busy."""
BOUNDARY = "boundary-of-the-benchmark"


@dataclass(frozen=True)
class Load:
    """What the clients do.

    Attributes:
        url: Of the service.
        pictures: Folder of the files to send.
        fields: Forms to choose from at random: field to value or values.
        clients: How many send at the same time, each its next request when it has its answer.
        seconds: How long they go on.
        warm_s: Of these, how many at the beginning do not count. With many clients and a slow server, longer than it
            takes to answer them all once.
        each: Requests of one client at most.
        seed: Of the choices.
        in_order: Take the forms one after the other instead.
    """

    url: str
    pictures: str
    fields: list[dict[str, Any]]
    clients: int = 1
    seconds: float = 10.0
    warm_s: float = 0.0
    each: int = 1_000_000
    seed: int = 0
    in_order: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: Of each request answered with 200 after the beginning, in the order of sending.
        statuses: How often each status came in the whole time.
        rate: Requests answered with 200 a second, between the beginning and the moment when nobody sends any more.
        client_core_s: Seconds for which the clients kept a core busy.
        retry_after: Whether every 503 said when to come again.
    """

    seconds: list[float]
    statuses: dict[str, int]
    rate: float
    client_core_s: float
    retry_after: bool

    def percentile(self, share: float) -> float:
        """Of the seconds."""
        return statistics.quantiles(self.seconds, n=1000, method="inclusive")[round(share * 1000) - 1]


def run(load: Load) -> Outcome:
    """Have a process of its own do it."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.over_http.load"],
        input=json.dumps(asdict(load)).encode(),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
    )
    return Outcome(**json.loads(done.stdout))


def body(picture: bytes, fields: dict[str, Any]) -> bytes:
    """A form with one picture."""
    parts = []
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            parts.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="p.jpg"\r\n'
    parts.append(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + picture + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class _Clients:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._pictures = [path.read_bytes() for path in sorted(Path(load.pictures).iterdir())]
        self._found: list[tuple[float, float, int]] = []
        self._polite = True
        self._lock = threading.Lock()

    def __call__(self) -> Outcome:
        load = self._load
        self._from = time.perf_counter()
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(load.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = sorted(self._found)
        counted = [(sent, seconds) for sent, seconds, status in found if status == 200 and sent + seconds > load.warm_s]
        until = min(load.seconds, max((sent + seconds for sent, seconds in counted), default=load.seconds))
        inside = sum(sent + seconds <= until for sent, seconds in counted)
        return Outcome(
            [seconds for _, seconds in counted],
            {str(status): count for status, count in Counter(status for _, _, status in found).items()},
            inside / max(until - load.warm_s, 1e-9),
            time.process_time(),
            self._polite,
        )

    def _client(self, number: int) -> None:
        load, random_ = self._load, random.Random(f"{self._load.seed}-{number}")
        address = urlsplit(load.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=300)
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        for turn in range(load.each):
            picture = random_.choice(self._pictures)
            form = load.fields[turn % len(load.fields)] if load.in_order else random_.choice(load.fields)
            data = body(picture, form)
            sent = time.perf_counter() - self._from
            if sent > load.seconds:
                break
            status = 0
            with contextlib.suppress(http.client.HTTPException, OSError):
                connection.request("POST", "/predict", data, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
                if status == 503:
                    self._polite = self._polite and bool(answer.headers.get("Retry-After"))
                    time.sleep(PAUSE_S)
            if status != 200:
                connection.close()
            with self._lock:
                self._found.append((sent, time.perf_counter() - self._from - sent, status))
        connection.close()


if __name__ == "__main__":
    json.dump(asdict(_Clients(Load(**json.load(sys.stdin)))()), sys.stdout)
