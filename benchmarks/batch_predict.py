"""Many pictures at once: memory at 1,000 and at 10,000 pictures, and speed beside calling /predict in a loop.

    .venv/bin/python -m benchmarks.batch_predict

Starts the service with a data folder of its own on the demo backbone and speaks HTTP with it, as its users do. The
pictures are drawn shapes of 64 by 64 pixels; the classifier is zero-shot on ten names.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil
from PIL import Image

from npt_core.clip.demo import draw
from npt_core.clip.demo.vocabulary import COLOUR_NAMES

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1_000, 10_000)
DRAWN = 1_000
COMPARED = {"one batch": 2_000, "/predict, 64 a request": 2_000, "/predict, 1 a request": 200}
"""Way to have pictures classified -> how many of them."""
ROUNDS = 7
FIELDS = {"model": "zero-shot", "labels": json.dumps([f"a {colour} circle" for colour in COLOUR_NAMES][:10])}


def drawings(n: int) -> list[bytes]:
    """So many different pictures as PNG files."""
    found = []
    for image in draw.draw_shapes(n, 99).images:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        found.append(out.getvalue())
    return found


def zipped(pictures: list[bytes], n: int) -> bytes:
    """A zip of `n` of them, beginning again where they end."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(n):
            archive.writestr(f"{number // 1000:03d}/{number:06d}.png", pictures[number % len(pictures)])
    return out.getvalue()


@contextlib.contextmanager
def running_service() -> Iterator[tuple[httpx.Client, psutil.Process]]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
        env |= {"NPT_DATA_DIR": str(data), "NPT_PORT": "0", "NPT_BACKBONE": "demo"}
        with open(Path(folder) / "log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app"], cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            address = data / "run" / "service.json"
            while not address.exists():
                if process.poll() is not None:
                    raise SystemExit((Path(folder) / "log").read_text())
                time.sleep(0.1)
            with httpx.Client(base_url=json.loads(address.read_text())["url"], timeout=600) as client:
                while client.get("/readyz").status_code != 200:
                    time.sleep(0.1)
                yield client, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class Peak:
    """The most resident memory of each process of the service while the block runs."""

    def __init__(self, service: psutil.Process) -> None:
        self._service, self._most = service, dict[int, int]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for process in (self._service, *self._service.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._most[process.pid] = max(self._most.get(process.pid, 0), process.memory_info().rss)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def mib(self) -> str:
        """In MiB, of the two largest: the process that does the job, and the API."""
        return " and ".join(f"{size / 2**20:.0f}" for size in sorted(self._most.values())[:-3:-1])


def batch(client: httpx.Client, archive: bytes) -> tuple[float, float]:
    """Seconds from the request to the results on this side, and images a second inside the job."""
    started = time.monotonic()
    answer = client.post("/predict/batch", files={"file": ("p.zip", archive, "application/zip")}, data=FIELDS)
    answer.raise_for_status()
    job = answer.json()
    while job["status"] in ("queued", "running"):
        time.sleep(0.1)
        job = client.get(f"/jobs/{job['id']}").json()
    if job["status"] != "succeeded":
        raise SystemExit(f"the job has {job['status']}: {job['error']}")
    client.get(f"/jobs/{job['id']}/results").raise_for_status()
    return time.monotonic() - started, job["counters"]["images_per_second"]


def loop(client: httpx.Client, pictures: list[bytes], each: int) -> float:
    """Seconds for all of them, so many in a request."""
    started = time.monotonic()
    for start in range(0, len(pictures), each):
        files = [("images", (f"{start + n}.png", data)) for n, data in enumerate(pictures[start : start + each])]
        client.post("/predict", files=files, data=FIELDS).raise_for_status()
    return time.monotonic() - started


def cores(service: psutil.Process) -> float:
    """Seconds that the service's processes have kept a core busy."""
    total = 0.0
    for process in (service, *service.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def main() -> None:
    pictures = drawings(DRAWN)
    with running_service() as (client, service):
        batch(client, zipped(pictures, 64))  # everything is loaded now
        loop(client, pictures[:64], 64)
        print("| pictures | seconds, results included | images a second in the job | peak MiB of the two largest |")
        print("|---|---|---|---|")
        for n in SIZES:
            archive = zipped(pictures, n)
            with Peak(service) as peak:
                seconds, rate = batch(client, archive)
            print(f"| {n:,} | {seconds:.1f} | {rate:.0f} | {peak.mib} |")
        archive = zipped(pictures, COMPARED["one batch"])
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in COMPARED}
        for _ in range(ROUNDS):  # in turns, so that a busy moment hits all of them
            for way, n in COMPARED.items():
                each = 1 if "1 a request" in way else 64
                many = [pictures[number % DRAWN] for number in range(n)]
                before = cores(service)
                seconds = batch(client, archive)[0] if way == "one batch" else loop(client, many, each)
                found[way].append((n / seconds, 1000 * (cores(service) - before) / n))
        rates = {way: [statistics.median(one) for one in zip(*rounds, strict=True)] for way, rounds in found.items()}
        print(f"\n| median of {ROUNDS} | pictures | images a second | of one batch | ms of a core a picture |")
        print("|---|---|---|---|---|")
        for way, (rate, core) in rates.items():
            print(f"| {way} | {COMPARED[way]:,} | {rate:.0f} | {rate / rates['one batch'][0]:.2f} | {core:.1f} |")


if __name__ == "__main__":
    main()
