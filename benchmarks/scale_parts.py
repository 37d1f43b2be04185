"""The measurements of `benchmarks/scale.py`: fill a service, ask it, start it again."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.scale_rig import CONFIG, Rig, wait_for
from npt_core.clip.demo import draw
from worker.ids import new_id
from worker.records import JobStatus, ModelDraft
from worker.service import Services
from worker.usage import file_sizes, measure

SHAPES = ("circle", "square", "triangle", "star")
IMAGES_A_CLASS = 8
DELETES = 20
AT_ONCE = 8
BACKLOG_S = 20.0
"""How long one worker is watched."""

Latencies = dict[str, tuple[float, float]]
"""Request -> p50 and p99 in milliseconds."""


# -- what jobs are about


def shapes_zip() -> bytes:
    """A few drawn shapes in a folder a class."""
    drawn = draw.draw_shapes(len(SHAPES) * IMAGES_A_CLASS, 5, names=SHAPES)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True)):
            archive.writestr(f"{label}/{number}.png", _png(image))
    return out.getvalue()


def _png(image: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def upload(client: httpx.Client) -> str:
    """Have the data set of the jobs stored; its id."""
    files = {"file": ("shapes.zip", shapes_zip(), "application/zip")}
    answer = client.post("/datasets", files=files, params={"audit": "false"})
    answer.raise_for_status()
    return str(answer.json()["id"])


def _start(services: Services, dataset_id: str, seed: int) -> str:
    from npt_core.tuning.config import TuneConfig

    config = TuneConfig.from_dict({**CONFIG, "seed": seed}).to_dict()
    return services.start_job("tune", config, dataset_id=dataset_id, name=f"shapes {seed}")[0].id


# -- jobs a minute


def jobs_a_minute(
    rig: Rig, url: str, services: Services, dataset_id: str, workers: int, jobs: int
) -> tuple[float, float, float]:
    """So many workers, warm, with `jobs` each: jobs a minute, and commands and KiB to Redis for one job."""
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(rig.worker(url)) for _ in range(workers)]

        def warm() -> bool:
            for process in processes:
                process.check()
            batch = [_start(services, dataset_id, seed) for seed in range(2 * workers)]
            _ended(services, batch)
            return len(_workers_of(services, batch)) == workers

        wait_for("every worker to have done a job", warm)
        before = _redis_work(services)
        batch = [_start(services, dataset_id, seed) for seed in range(jobs * workers)]
        _ended(services, batch)
        calls, nbytes = (now - then for now, then in zip(_redis_work(services), before, strict=True))
        records = [services.jobs.get(job_id) for job_id in batch]
    assert all(record.status is JobStatus.SUCCEEDED for record in records), Counter(r.status for r in records)
    begun = min(record.started_at for record in records if record.started_at)
    span = max(record.finished_at for record in records if record.finished_at) - begun
    return 60 * len(batch) / span.total_seconds(), calls / len(batch), nbytes / 1024 / len(batch)


def _ended(services: Services, batch: list[str]) -> None:
    for job_id in reversed(batch):  # the last one first: while it waits there is one question, not many
        wait_for(f"the end of {job_id}", partial(services.jobs.files.ended, job_id))


def _workers_of(services: Services, batch: list[str]) -> set[str]:
    files = services.jobs.files
    return {files.attempt(job_id, fence).worker for job_id in batch for fence in files.fences(job_id)}


def _redis_work(services: Services) -> tuple[int, int]:
    stats: Mapping[str, Any] = services.redis.info("stats")
    return int(stats["total_commands_processed"]), int(stats["total_net_input_bytes"])


def backlog_rate(rig: Rig, url: str, services: Services) -> float:
    """Jobs a minute of one warm worker that has the whole queue before it."""
    ended = (JobStatus.SUCCEEDED, JobStatus.FAILED)
    with rig.worker(url) as process:

        def done() -> int:
            process.check()
            return sum(services.queue.counts()[status] for status in ended)

        first = done()
        wait_for("the first of the queued jobs", lambda: done() > first + 1)
        began, at = done(), time.monotonic()
        time.sleep(BACKLOG_S)
        return 60 * (done() - began) / (time.monotonic() - at)


def tuned_model(rig: Rig, url: str, services: Services, dataset_id: str) -> None:
    """One model, tuned by a worker."""
    job_id = _start(services, dataset_id, 0)
    with rig.worker(url):
        _ended(services, [job_id])
    assert services.jobs.get(job_id).status is JobStatus.SUCCEEDED


# -- filling


def fill(services: Services, *, jobs: int, datasets: int, models: int) -> None:
    """Bring each kind up to that number by the service's own code, all at once: most of it is waiting for the disk."""
    model_id = services.store.names("models")[0]
    dataset_id = services.models.get(model_id).dataset_id
    assert dataset_id is not None
    seed = random.SystemRandom().randrange(2**40)
    wanted: list[tuple[int, int, Callable[[int], object]]] = [
        (services.queue.counts()["queued"], jobs, partial(_start, services, dataset_id)),
        (len(services.store.names("datasets")), datasets, partial(_add_dataset, services)),
        (len(services.store.names("models")), models, partial(_add_model, services, model_id)),
    ]

    def make(kind: tuple[int, int, Callable[[int], object]]) -> None:
        there, number, one = kind
        for each in range(there, number):
            one(seed + each)

    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(make, wanted))


def _add_dataset(services: Services, number: int) -> None:
    """Four tiny pictures in two classes, judged and kept as any upload is."""
    part = services.store.part()
    with zipfile.ZipFile(part, "w") as archive:
        for place in range(4):
            image = np.frombuffer(random.Random(4 * number + place).randbytes(8 * 8 * 3), np.uint8).reshape(8, 8, 3)
            archive.writestr(f"{'ab'[place % 2]}/{place}.png", _png(image))
    services.datasets.add(part, f"{number}.zip")


def _add_model(services: Services, model_id: str, number: int) -> None:
    """A copy of a tuned model with a report of its own, prepared and promoted as a job's result is."""
    record, source = services.models.get(model_id), services.models.folder(model_id)
    made = new_id("model")
    folder = services.store.path(f"uploads/{made}")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.json"))
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "copy": number}))
    draft = ModelDraft.model_validate(
        record.model_dump(include=set(ModelDraft.model_fields)) | {"name": f"copies {number % 100}"}
    )
    services.models.prepare(folder, draft, model_id=made, job_id=None)
    assert services.models.promote(f"uploads/{made}", made)


# -- asking


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


# -- what it takes


def footprint(services: Services) -> dict[str, tuple[int, int]]:
    """Number and bytes of each kind of thing, on disk and in Redis."""
    root: Path = services.settings.data_dir
    names = services.store.names
    archives = sum(file_sizes(root / "archives"))
    features = list(file_sizes(root / "features"))
    return {
        "a queued job, in Redis": (len(names("jobs")), int(services.redis.info("memory")["used_memory"])),
        "a queued job, on disk": (len(names("jobs")), sum(file_sizes(root / "jobs"))),
        "a data set beside its zip": (len(names("datasets")), sum(file_sizes(root / "datasets"))),
        "its zip (4 tiny pictures)": (len(names("datasets")), archives),
        "a model (4 classes)": (len(names("models")), sum(file_sizes(root / "models"))),
        "cached features of an image, all its views": (len(SHAPES) * IMAGES_A_CLASS, sum(features)),
    }


def told_footprint(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """Bytes of one more of each kind; of what did not become more, bytes of one."""
    for what, (number, nbytes) in after.items():
        more, grown = number - before[what][0], nbytes - before[what][1]
        each = grown / more if more else nbytes / number
        yield f"{what[0].upper()}{what[1:]}: {each:,.0f} bytes."


def resident_mib(pid: int) -> float:
    """Memory of a process and those it started."""
    process = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


def rounds(services: Services) -> dict[str, float]:
    """Seconds of what goes on beside the requests, now and then."""
    done: dict[str, Callable[[], object]] = {
        "Bytes of the store, measured once a minute": partial(measure, services.settings.data_dir),
        "Looking for what may go, once an hour": services.retention.find,
    }
    found = {}
    for what, one in done.items():
        began = time.monotonic()
        one()
        found[what] = time.monotonic() - began
    return found


# -- starting again


def restarts(rig: Rig) -> Iterator[tuple[str, float, float]]:
    """What was started again, seconds of its reconciliation, and (the API) seconds until it was ready."""
    for name, emptied in (("Redis kept its file", False), ("Redis had lost everything", True)):
        with rig.broker(emptied=emptied) as url, rig.api(url) as (_, api, ready):
            yield f"API started, {name}", _reconciled(api), ready
        # It listens on a line where nothing waits: what is queued stays queued, and it reconciles all the same.
        with rig.broker(emptied=emptied) as url, rig.worker(url, NPT_QUEUE="nothing-waits-here") as worker:
            wait_for("the worker to reconcile", partial(worker.told, "reconciled"))
            yield f"worker started, {name}", _reconciled(worker), 0.0


def _reconciled(process: Any) -> float:
    return float(process.told("reconciled")[0]["seconds"])
