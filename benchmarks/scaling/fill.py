"""Fill a service by its own code: queued jobs, data sets, models."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.scaling.rig import Rig, wait_for
from npt_core.clip.demo import draw
from worker.ids import new_id
from worker.records import JobStatus, ModelDraft
from worker.service import Services

CONFIG: dict[str, Any] = {"method": "coop", "shots": 4, "epochs": 5}
"""The small real tuning that every job is."""
SHAPES = ("circle", "square", "triangle", "star")
IMAGES_A_CLASS = 8


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


def start(services: Services, dataset_id: str, seed: int) -> str:
    """Queue one job; its id."""
    from npt_core.tuning.config import TuneConfig

    config = TuneConfig.from_dict({**CONFIG, "seed": seed}).to_dict()
    return services.start_job("tune", config, dataset_id=dataset_id, name=f"shapes {seed}")[0].id


def wait_ended(services: Services, batch: list[str]) -> None:
    """Wait for the end of all of them."""
    for job_id in reversed(batch):  # the last one first: while it waits there is one question, not many
        wait_for(f"the end of {job_id}", partial(services.jobs.files.ended, job_id))


def tuned_model(rig: Rig, url: str, services: Services, dataset_id: str) -> None:
    """One model, tuned by a worker."""
    job_id = start(services, dataset_id, 0)
    with rig.worker(url):
        wait_ended(services, [job_id])
    assert services.jobs.get(job_id).status is JobStatus.SUCCEEDED


def fill(services: Services, *, jobs: int, datasets: int, models: int) -> None:
    """Bring each kind up to that number by the service's own code, all at once: most of it is waiting for the disk."""
    model_id = services.store.names("models")[0]
    dataset_id = services.models.get(model_id).dataset_id
    assert dataset_id is not None
    seed = random.SystemRandom().randrange(2**40)
    wanted: list[tuple[int, int, Callable[[int], object]]] = [
        (services.queue.counts()["queued"], jobs, partial(start, services, dataset_id)),
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
