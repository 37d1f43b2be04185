"""What every worker did, counted in Redis: one hash of numbers that only rise, whoever reads them and however often.

A job is counted by the script that settles it, in the same step as its state: once, whoever ends it and however often
that is said again. What a job counts on its way is added as it happens. Redis keeps the numbers over restarts of every
process; where it loses its memory they begin again at zero, as counters may.

    jobs|KIND|STATUS        jobs that ended
    run|KIND|STATUS|...     their seconds from the first start to the end, as a histogram
    wait|KIND|...           seconds from the request to the first start
    phase|KIND|PHASE|...    seconds of a phase, of the attempt that ended the job
    cache|NAME|RESULT       looks into a cache: hit or miss
    images|worker           images that went through an image tower

A histogram is `|0`, `|1`, ... (in which of `BUCKETS_S` it fell, the last is beyond them) and `|sum`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast, get_args

import redis
import structlog

from npt_core.tuning.control import Phase
from worker.keys import Keys
from worker.records import JobEnd, JobSpec

log = structlog.get_logger(__name__)

BUCKETS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
PHASES = frozenset(get_args(Phase))
Counts = dict[str, float]


def of_job(spec: JobSpec, end: JobEnd) -> Counts:
    """What the end of a job adds."""
    counts: Counts = {f"jobs|{spec.kind}|{end.status}": 1}
    if end.started_at is not None:
        counts |= _fallen(f"run|{spec.kind}|{end.status}", _seconds(end.started_at, end.finished_at))
        counts |= _fallen(f"wait|{spec.kind}", _seconds(spec.created_at, end.started_at))
    by_phase: defaultdict[str, float] = defaultdict(float)
    for phase, seconds in end.phases.items():
        by_phase[phase if phase in PHASES else "other"] += seconds
    for phase, seconds in by_phase.items():
        counts |= _fallen(f"phase|{spec.kind}|{phase}", seconds)
    return counts


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())


def _fallen(name: str, seconds: float) -> Counts:
    return {f"{name}|{bisect_left(BUCKETS_S, seconds)}": 1, f"{name}|sum": round(seconds, 3)}


@dataclass
class Durations:
    """A histogram: how many fell into each bucket alone, and the sum of all."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total: float = 0.0


@dataclass
class Reading:
    """The numbers, by their labels."""

    jobs: dict[tuple[str, ...], float] = field(default_factory=dict)
    run: defaultdict[tuple[str, ...], Durations] = field(default_factory=lambda: defaultdict(Durations))
    wait: defaultdict[tuple[str, ...], Durations] = field(default_factory=lambda: defaultdict(Durations))
    phase: defaultdict[tuple[str, ...], Durations] = field(default_factory=lambda: defaultdict(Durations))
    cache: dict[tuple[str, ...], float] = field(default_factory=dict)
    images: dict[tuple[str, ...], float] = field(default_factory=dict)


class Tally:
    """Adds and reads.

    Args:
        client: For adding.
        probe: For reading: a client that gives up soon.
        keys: Names in Redis.
    """

    def __init__(self, client: redis.Redis, probe: redis.Redis, keys: Keys) -> None:
        self._redis, self._probe, self._key = client, probe, keys.tally

    def add(self, counts: Mapping[str, float]) -> None:
        """Count something as it happens. Worth losing: a Redis that does not answer is not an error here."""
        try:
            pipe = self._redis.pipeline(transaction=False)
            for name, number in counts.items():
                pipe.hincrbyfloat(self._key, name, number)
            pipe.execute()
        except redis.RedisError as error:
            log.debug("count lost", error=str(error))

    def read(self) -> Reading:
        """Every number.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        reading = Reading()
        for name, text in cast("dict[str, str]", self._probe.hgetall(self._key)).items():
            what, *labels = name.split("|")
            if what in ("jobs", "cache", "images"):
                getattr(reading, what)[tuple(labels)] = float(text)
            elif what in ("run", "wait", "phase"):
                *labels, part = labels
                durations: Durations = getattr(reading, what)[tuple(labels)]
                if part == "sum":
                    durations.total = float(text)
                else:
                    durations.buckets[int(part)] = int(float(text))
        return reading


def cumulated(durations: Durations) -> Iterator[tuple[str, float]]:
    """A histogram as Prometheus wants it: the upper edge of each bucket, and how many were at most that long."""
    so_far = 0
    for edge, number in zip((*map(str, BUCKETS_S), "+Inf"), durations.buckets, strict=True):
        so_far += number
        yield edge, so_far
