"""Requests at a depth: how long each kind takes."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import httpx
import numpy as np

from benchmarks.scaling.fill import CONFIG
from worker.service import Services

DELETES = 20
AT_ONCE = 8

Latencies = dict[str, tuple[float, float]]
"""Request -> p50 and p99 in milliseconds."""


@dataclass(frozen=True)
class _Ids:
    """What there is to ask about, newest first."""

    jobs: list[str]
    datasets: list[str]
    models: list[str]


def latencies(client: httpx.Client, services: Services, dataset_id: str, requests: int) -> Latencies:
    """p50 and p99 of every kind of request, one at a time where nothing else is said."""
    ids = _Ids(list(services.jobs.files.ids()), list(_all(client, "/datasets")), list(_all(client, "/models")))
    chance = random.Random(1)
    some = chance.choice

    def get(path: str, **params: Callable[[], str | int]) -> Callable[[], httpx.Response]:
        return lambda: client.get(path, params={name: value() for name, value in params.items()})

    asked: dict[str, Callable[[], httpx.Response]] = {
        "GET /jobs": get("/jobs"),
        "GET /jobs?limit=200": get("/jobs", limit=lambda: 200),
        "GET /jobs?cursor=": get("/jobs", cursor=lambda: some(ids.jobs)),
        "GET /jobs?status=queued": get("/jobs", status=lambda: "queued", cursor=lambda: some(ids.jobs)),
        "GET /jobs?status=succeeded": get("/jobs", status=lambda: "succeeded"),
        "GET /jobs/{id}": lambda: client.get(f"/jobs/{some(ids.jobs)}"),
        "GET /datasets": get("/datasets"),
        "GET /datasets?limit=200": get("/datasets", limit=lambda: 200),
        "GET /datasets?cursor=": get("/datasets", cursor=lambda: some(ids.datasets)),
        "GET /models": get("/models"),
        "GET /models?limit=200": get("/models", limit=lambda: 200),
        "GET /models?cursor=": get("/models", cursor=lambda: some(ids.models)),
        "GET /models?name=": get("/models", name=lambda: f"copies {chance.randrange(100)}"),
        "GET /models/{id}": lambda: client.get(f"/models/{some(ids.models)}"),
        "GET /metrics": get("/metrics"),
    }
    found = {name: _timed(request, requests) for name, request in asked.items()}
    found[f"GET /jobs, {AT_ONCE} at once"] = _timed_at_once(asked["GET /jobs"], requests)
    tune = {"dataset_id": dataset_id, "config": json.dumps(CONFIG)}
    found["POST /tune"] = _timed(lambda: client.post("/tune", data=tune), requests)
    for kind, all_ids in (("datasets", ids.datasets), ("models", ids.models)):
        unused = [each for each in all_ids if each != dataset_id][: DELETES + 1]
        path = f"/{kind}"
        found[f"DELETE {path}/{{id}}"] = _timed(partial(_delete, client, path, iter(unused)), len(unused) - 1, warm=1)
    return found


def _delete(client: httpx.Client, path: str, unused: Iterator[str]) -> httpx.Response:
    return client.delete(f"{path}/{next(unused)}")


def _all(client: httpx.Client, path: str) -> Iterator[str]:
    cursor: str | None = None
    while True:
        page = (
            client.get(path, params={"limit": 200} | ({"cursor": cursor} if cursor else {})).raise_for_status().json()
        )
        yield from (item["id"] for item in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _timed(request: Callable[[], httpx.Response], n: int, warm: int = 5) -> tuple[float, float]:
    for _ in range(warm):
        request().raise_for_status()
    return _percentiles([_seconds(request) for _ in range(n)])


def _timed_at_once(request: Callable[[], httpx.Response], n: int) -> tuple[float, float]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return _percentiles(list(pool.map(lambda _: _seconds(request), range(n))))


def _seconds(request: Callable[[], httpx.Response]) -> float:
    began = time.perf_counter()
    answer = request()
    took = time.perf_counter() - began
    answer.raise_for_status()
    return took


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(seconds, [50, 99])
    return 1000 * float(p50), 1000 * float(p99)
