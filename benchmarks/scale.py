"""What 10,000 queued jobs, models and data sets cost, and what a second worker brings. Real processes, real HTTP.

    .venv/bin/python -m benchmarks.scale                    # everything: some ten minutes on two cores
    .venv/bin/python -m benchmarks.scale --only throughput
    .venv/bin/python -m benchmarks.scale --only depth
    .venv/bin/python -m benchmarks.scale --only fill --data /tmp/full      # ahead, for a later --only depth of it

Every process gets one thread for its matrix products (OMP_NUM_THREADS=1), so that two workers have a core each. Jobs
are small real tunings of drawn shapes on the demo backbone whose image features are cached. Queued jobs, data sets and
models are made by the service's own code, never written by hand. Exit status 1 where a wanted figure is missed.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import structlog

from benchmarks.scaling import asking, costs, fill, pace
from benchmarks.scaling.rig import Rig

DEPTH = 10_000
FEW = 100
LISTING_P99_MS = 100.0
RECONCILED_S = 5.0
LINEAR = 0.80  # two workers bring at least so much of twice one worker's jobs


class Verdicts:
    """Figures that were wanted, and whether they are met."""

    def __init__(self) -> None:
        self.all_met = True

    def __call__(self, what: str, met: bool) -> None:
        self.all_met &= met
        print(f"{'PASS' if met else 'FAIL'}  {what}")


def throughput(rig: Rig, jobs: int, rounds: int, verdict: Verdicts) -> None:
    """Jobs a minute of one and two workers, in turns, beside as many plain processes without the service."""
    rates: dict[tuple[str, int], list[float]] = {}
    with rig.broker() as url, rig.services(url) as services, rig.api(url) as (client, _, _):
        dataset_id = fill.upload(client)
        for _ in range(rounds):
            for workers in (1, 2):
                job = pace.jobs_a_minute(rig, url, services, dataset_id, workers, jobs)
                rates.setdefault(("workers", workers), []).append(job.rate)
                rates.setdefault(("plain", workers), []).append(pace.plain_rate(rig, dataset_id, workers, jobs))
        print(f"One job: {job.commands:.0f} commands to Redis, {job.kib:.1f} KiB, {job.redis_ms:.1f} ms of its core.\n")
    median = {key: statistics.median(each) for key, each in rates.items()}
    print(f"| jobs a minute, median of {rounds} | 1 | 2 | of twice one |")
    print("|---|---|---|---|")
    linear = {}
    for kind, name in (("workers", "workers"), ("plain", "plain processes, no service")):
        one, two = median[kind, 1], median[kind, 2]
        linear[kind] = two / (2 * one)
        print(f"| {name} | {one:.0f} | {two:.0f} | {linear[kind]:.2f} |")
    print()
    verdict(f"two workers bring {linear['workers']:.2f} of twice one, wanted {LINEAR}", linear["workers"] >= LINEAR)


def depth(rig: Rig, other: Rig, n: int, few: int, asked: int, verdict: Verdicts) -> None:
    """Latencies of one service with few and one with many of everything, then restarts of the large one."""
    found: list[asking.Latencies] = []
    sizes = []
    for each, number in ((other, few), (rig, n)):
        make(each, number)
        # As in any service there is a worker; it listens to a line where nothing waits, so that the queue stays.
        with (
            each.broker() as url,
            each.services(url) as services,
            each.worker(url, NPT_QUEUE=costs.ANOTHER_LINE),
            each.api(url) as (client, process, _),
        ):
            dataset_id = fill.upload(client)  # it is there: this tells its id
            sizes.append(costs.footprint(services))
            found.append(asking.latencies(client, services, dataset_id, asked))
            resident = costs.resident_mib(process.pid)
            rounds = costs.rounds(services)
    print(f"\n| ms, {asked} of each, one at a time | {few} of each: p50 | p99 | {n:,} of each: p50 | p99 |")
    print("|---|---|---|---|---|")
    for name, (p50, p99) in found[1].items():
        p50_few, p99_few = found[0][name]
        print(f"| {name} | {p50_few:.1f} | {p99_few:.1f} | {p50:.1f} | {p99:.1f} |")
    print()
    for line in costs.told_footprint(*sizes):
        print(line)
    print(f"API process: {resident:.0f} MiB resident.")
    for what, seconds in rounds.items():
        print(f"{what}: {seconds:.2f} s.")
    print()
    for name, (_, p99) in found[1].items():
        if name.startswith("GET") and "at once" not in name:
            verdict(f"{name}: p99 {p99:.1f} ms, wanted under {LISTING_P99_MS:.0f}", p99 < LISTING_P99_MS)
    print()
    for what, reconciled, ready in costs.restarts(rig):
        told = f" (ready {ready:.1f} s after its start)" if ready else ""
        verdict(f"{what}: reconciled in {reconciled:.2f} s{told}, wanted {RECONCILED_S:.0f}", reconciled < RECONCILED_S)
    with rig.broker() as url, rig.services(url) as services:
        jobs, rate = services.queue.counts()["queued"], pace.backlog_rate(rig, url, services)
        print(f"\nOne worker with {jobs:,} queued: {rate:.0f} jobs a minute.")


def decode() -> None:
    """What a picture costs before the tower sees it."""
    print("| JPEG | ms of a core |")
    print("|---|---|")
    for what, took in costs.decode_ms():
        print(f"| {what} | {took:.1f} |")
    print()


def make(rig: Rig, n: int) -> None:
    """Bring a data folder to so many queued jobs, data sets and models."""
    with rig.broker() as url, rig.services(url) as services:
        if not services.store.names("models"):
            with rig.api(url, NPT_PRELOAD="false") as (client, _, _):
                dataset_id = fill.upload(client)
            fill.tuned_model(rig, url, services, dataset_id)
        fill.fill(services, jobs=n, datasets=n, models=n)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("throughput", "depth", "decode", "fill"), help="one part of it")
    parser.add_argument("--data", type=Path, help="the full data folder, made or gone on with, and kept")
    parser.add_argument("--depth", type=int, default=DEPTH, help="how many jobs, data sets and models (10000)")
    parser.add_argument("--few", type=int, default=FEW, help="how many to compare with (100)")
    parser.add_argument("--requests", type=int, default=300, help="requests of each kind (300)")
    parser.add_argument("--jobs", type=int, default=40, help="jobs of one worker in a round (40)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds with one and two workers (3)")
    args = parser.parse_args(argv)
    verdict = Verdicts()
    with tempfile.TemporaryDirectory(prefix="npt-scale-") as folder:
        full = Rig(args.data or Path(folder) / "full")
        if args.only == "fill":
            make(full, args.depth)
        if args.only in (None, "decode"):
            decode()
        if args.only in (None, "throughput"):
            throughput(Rig(Path(folder) / "workers"), args.jobs, args.rounds, verdict)
        if args.only in (None, "depth"):
            depth(full, Rig(Path(folder) / "few"), args.depth, args.few, args.requests, verdict)
    return 0 if verdict.all_met else 1


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sys.exit(main())
