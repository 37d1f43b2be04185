"""The service under load beside a bare loop over open_clip's `encode_image`, on the same machine in the same minutes.

    .venv/bin/python -m benchmarks.serving                        # random ViT-B/16, the figures that are asked for
    .venv/bin/python -m benchmarks.serving --architecture demo    # the demo backbone, where HTTP takes most of the time

Both decode the same JPEG files of 224 to 512 pixels. The loop reads each file, has open_clip's own transform prepare it
and encodes batches of each size; its best size is what the service is held against. The service is a process of its own
that speaks HTTP; its clients are another. All of them share the cores, so that the clients' work counts against the
service. The classifier is zero-shot over ten names.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.over_http.judging import judge
from benchmarks.over_http.load import Load, Outcome, run
from benchmarks.over_http.pictures import write_pictures
from benchmarks.over_http.service import Service, random_checkpoint, running

NAMES = [f"a {word}" for word in ("cat", "dog", "car", "tree", "ship", "bird", "frog", "horse", "plane", "truck")]
FIELDS = [{"model": "zero-shot", "labels": json.dumps(NAMES)}]
SIZES = (1, 8, 32)
CLIENTS, BOUND = 32, 48
WANTED = {"rate": 0.9, "added_ms": 5.0, "tail": 3.0}


class Bare:
    """open_clip and a loop."""

    def __init__(self, architecture: str, checkpoint: str | None) -> None:
        import open_clip
        import torch
        from PIL import Image

        if checkpoint is None:  # the demo's weights: its own preparation is the service's
            from npt_core.clip import load_backbone
            from npt_core.tuning.features import load_picture

            backbone = load_backbone("demo", device="cpu")
            self._prepare: Callable[[bytes], Any] = lambda data: load_picture(backbone, data)
            self._encode: Callable[[Any], Any] = backbone.encode_images
        else:
            model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=checkpoint)
            model.eval()
            self._prepare = lambda data: transform(Image.open(io.BytesIO(data)).convert("RGB"))
            self._encode = lambda pixels: model.encode_image(pixels, normalize=True)
        self._torch = torch

    def batch(self, files: list[bytes]) -> None:
        with self._torch.inference_mode():
            self._encode(self._torch.stack([self._prepare(data) for data in files]))

    def rate(self, files: list[bytes], size: int, seconds: float) -> float:
        """Pictures a second in batches of one size."""
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            self.batch([files[(done + n) % len(files)] for n in range(size)])
            done += size
        return done / (time.perf_counter() - started)

    def single(self, files: list[bytes], count: int) -> list[float]:
        """Seconds of each of some pictures, one by one."""
        found = []
        for number in range(count):
            started = time.perf_counter()
            self.batch([files[number % len(files)]])
            found.append(time.perf_counter() - started)
        return found


def ask(service: Service, folder: Path, **settings: Any) -> Outcome:
    return run(Load(service.url, str(folder), FIELDS, **settings))


def main(architecture: str, rounds: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        files = write_pictures(folder / "pictures", 64)
        demo = architecture == "demo"
        entry = "demo" if demo else random_checkpoint(folder, architecture)
        bare = Bare(architecture, None if demo else entry.split("@")[1])
        print(f"{architecture}, {sum(map(len, files)) / len(files) / 1024:.0f} KiB a picture\n")
        with running(folder / "data", NPT_BACKBONE=entry) as service:
            ask(service, folder / "pictures", each=3)  # loads what is loaded once
            throughput(service, bare, files, folder / "pictures", rounds, seconds)
            one_client(service, bare, files, folder / "pictures", rounds, seconds)
        with running(folder / "small", NPT_BACKBONE=entry, NPT_MAX_PENDING=str(BOUND), NPT_MAX_IMAGES="8") as service:
            ask(service, folder / "pictures", each=3)
            shedding(service, folder / "pictures", min(10.0, seconds))


def throughput(service: Service, bare: Bare, files: list[bytes], folder: Path, rounds: int, seconds: float) -> None:
    """32 clients beside the loop at every size, in turns."""
    loop: dict[int, list[float]] = {size: [] for size in SIZES}
    outcomes: list[Outcome] = []
    cores: list[float] = []
    for number in range(rounds):
        for size in SIZES:
            loop[size].append(bare.rate(files, size, seconds / 4))
        before, images = service.core_s(), service.metric("npt_predict_batch_size_sum")
        # The first answers of all clients come at once, and are left out.
        warm_s = max(0.5, 1.5 * CLIENTS / max(statistics.median(rates) for rates in loop.values()))
        load = {"clients": CLIENTS, "seconds": warm_s + seconds, "warm_s": warm_s, "seed": number}
        outcomes.append(ask(service, folder, **load))
        cores.append((service.core_s() - before) / (service.metric("npt_predict_batch_size_sum") - images))
    print(f"| decoded and encoded, medians of {rounds} | images a second |\n|---|---|")
    for size, rates in loop.items():
        print(f"| bare loop, batches of {size} | {statistics.median(rates):.1f} |")
    best = max(statistics.median(rates) for rates in loop.values())
    rate = statistics.median(outcome.rate for outcome in outcomes)
    print(f"| the service, {CLIENTS} clients | {rate:.1f} |\n")
    mean = service.metric("npt_predict_batch_size_sum") / service.metric("npt_predict_batch_size_count")
    client = statistics.median(outcome.client_core_s / len(outcome.seconds) for outcome in outcomes)
    print(
        f"Batches of {mean:.1f} on average; a picture takes {1000 * statistics.median(cores):.1f} ms of a core in the"
    )
    print(f"service and {1000 * client:.1f} ms in the clients.\n")
    middle = statistics.median(outcome.percentile(0.5) for outcome in outcomes)
    tail = statistics.median(outcome.percentile(0.99) for outcome in outcomes)
    print(f"p50 {1000 * middle:.0f} ms, p99 {1000 * tail:.0f} ms\n")
    bad = {status for outcome in outcomes for status in outcome.statuses if status != "200"}
    print(f"{'PASS' if not bad else 'FAIL'}: every request was answered{f', but {bad}' if bad else ''}")
    judge("rate, of the loop's best", rate / best, WANTED["rate"], "at least", "{:.2f}")
    judge("p99 under load, of p50", tail / middle, WANTED["tail"], "at most", "{:.2f}")


def one_client(service: Service, bare: Bare, files: list[bytes], folder: Path, rounds: int, seconds: float) -> None:
    """What HTTP and the batcher add to one picture, in turns."""
    added, singles, wholes = [], [], []
    count = max(10, round(seconds / 8 / statistics.median(bare.single(files, 5))))
    for number in range(2 * rounds):
        single = statistics.median(bare.single(files, count))
        whole = ask(service, folder, each=count, seconds=600, seed=number).percentile(0.5)
        added.append(1000 * (whole - single))
        singles.append(1000 * single)
        wholes.append(1000 * whole)
    print(f"\n| one client, medians of {2 * rounds} times {count} | p50, ms |\n|---|---|")
    print(f"| decode and encode alone | {statistics.median(singles):.1f} |")
    print(f"| the service | {statistics.median(wholes):.1f} |\n")
    judge("ms added at the median", statistics.median(added), WANTED["added_ms"], "at most", "{:.1f}")


def shedding(service: Service, folder: Path, seconds: float) -> None:
    """More clients than may wait."""
    clients = 4 * BOUND
    before = service.resident()
    watched: list[int] = []
    outcome = _watched(service.api, watched, lambda: ask(service, folder, clients=clients, seconds=seconds))
    refused = outcome.statuses.get("503", 0)
    print(f"\n{clients} clients, at most {BOUND} pictures waiting: {outcome.statuses}; the API grew by at most")
    print(f"{(max(watched) - before) / 2**20:.0f} MiB over its {before / 2**20:.0f} MiB.\n")
    good = refused > 0 and outcome.retry_after and set(outcome.statuses) <= {"200", "503"} and len(outcome.seconds) > 0
    print(f"{'PASS' if good else 'FAIL'}: {refused} requests over the bound got 503 with Retry-After, the others 200")


def _watched(process: psutil.Process, into: list[int], work: Callable[[], Outcome]) -> Outcome:
    """Look at a process's resident memory while something runs."""
    import threading

    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            into.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return work()
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--architecture", default="ViT-B-16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    main(arguments.architecture, arguments.rounds, arguments.seconds)
