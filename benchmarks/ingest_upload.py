"""The upload of `benchmarks.ingest`: a zip of stored noise to a real API, beside `sha256sum` of the same file.

Every picture is a PNG of random pixels, not compressed, so that neither side can be quick by compression. The zip is
within the default limits and becomes a data set. The client hands the file to the kernel (`sendfile`), so that it takes
little of the cores it shares with the server.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import statistics
import subprocess
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from benchmarks.lone_api import running_api, running_broker

SIDE = 2048
SPEED_RATIO = 0.7
FLAT_MIB = 200
MIB = 2**20


def noise_png(seed: int) -> bytes:
    """A PNG of random pixels, stored: 12 MiB."""
    rows = np.random.default_rng(seed).integers(0, 256, (SIDE, 1 + 3 * SIDE), dtype=np.uint8)
    rows[:, 0] = 0  # no filter

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = SIDE.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(rows.tobytes(), 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_large(path: Path, size: int) -> None:
    """A zip of as many such pictures in two classes as fit into `size` bytes."""
    each = len(noise_png(0)) + 200
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(max(2, size // each)):
            archive.writestr(f"class {number % 2}/{number:04d}.png", noise_png(number))


class Watch:
    """Resident memory of a process, sampled while the block runs: MiB before, and at most."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.most = self._rss()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _rss(self) -> float:
        return float(self._process.memory_info().rss) / MIB

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self._rss())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def send(url: str, path: Path) -> tuple[float, float, str]:
    """POST the file; seconds until its last byte was taken, seconds until the answer, and the data set's id."""
    where = urlsplit(url)
    head = (
        f"POST /datasets?audit=false HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/zip\r\n"
        f"Content-Length: {path.stat().st_size}\r\nConnection: close\r\n\r\n"
    )
    began = time.perf_counter()
    with socket.create_connection((where.hostname, where.port)) as connection, path.open("rb") as file:
        connection.sendall(head.encode())
        connection.sendfile(file)
        sent = time.perf_counter() - began
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    took = time.perf_counter() - began
    if answer.status != httpx.codes.CREATED:
        raise SystemExit(f"{answer.status}: {body.decode(errors='replace')[:2000]}")
    return sent, took, httpx.Response(200, content=body).json()["id"]


def sha256sum(path: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["sha256sum", str(path)], check=True, capture_output=True)
    return time.perf_counter() - began


@contextlib.contextmanager
def api(folder: Path) -> Iterator[tuple[str, int]]:
    """The API's address and process."""
    with running_broker(folder / "broker") as broker, running_api(folder / "api", broker) as running:
        yield running.url, running.process.pid


def upload(folder: Path, size: int, repeats: int) -> list[tuple[str, bool]]:
    path = folder / "large.zip"
    write_large(path, size)
    size = path.stat().st_size
    found: dict[str, list[float]] = {"sha256sum": [], "streamed": [], "answered": []}
    grown = []
    with api(folder) as (url, pid):
        for turn in range(repeats + 1):  # the first fills the disk's cache and is not counted
            os.sync()
            summed = sha256sum(path)
            with Watch(pid) as watch:
                streamed, answered, dataset = send(url, path)
            httpx.delete(f"{url}/datasets/{dataset}", timeout=60).raise_for_status()
            if turn:
                for name, took in zip(found, (summed, streamed, answered), strict=True):
                    found[name].append(took)
                grown.append(watch.most - watch.before)
    seconds = {name: statistics.median(times) for name, times in found.items()}
    ratio = seconds["sha256sum"] / seconds["streamed"]
    labels = {
        "sha256sum": "`sha256sum`",
        "streamed": "upload, until its last byte was taken",
        "answered": "upload, judged, stored and answered",
    }
    print(f"\nA zip of {size / MIB:,.0f} MiB; the API's memory grew by {max(grown):.0f} MiB at most\n")
    print("| what | seconds | MiB a second | of `sha256sum` |")
    print("|---|---|---|---|")
    for name, took in seconds.items():
        print(f"| {labels[name]} | {took:.1f} | {size / MIB / took:,.0f} | {seconds['sha256sum'] / took:.2f} |")
    return [
        (f"streamed at {ratio:.2f} of sha256sum, {SPEED_RATIO} wanted", ratio >= SPEED_RATIO),
        (f"the API grew by {max(grown):.0f} MiB during uploads, under {FLAT_MIB} wanted", max(grown) < FLAT_MIB),
    ]
