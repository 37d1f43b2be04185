"""The tune job on a real (tiny) backbone: from a stored zip to a model that predicts, in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from npt_core.classifier import Classifier
from npt_core.data.images import decode_image
from npt_core.errors import Drained
from tests.support.in_process import runner
from tests.support.pictures import COLOURS, write_folder
from tests.support.tiny_clip import tiny_backbone
from tests.support.zips import write_zip
from worker import backbones
from worker.control import JobControl
from worker.records import DatasetRecord, JobStatus
from worker.service import Services

CONFIG = {"epochs": 3, "views": 1, "batch_size": 8}


@pytest.fixture
def tuner(open_floor: Callable[..., Services], monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """The worker floor whose one backbone is a tiny random CLIP."""
    monkeypatch.setattr(backbones, "load_backbone", lambda entry, **_: tiny_backbone("clip", seed=0, name=entry))
    backbones.forget()
    before = torch.get_num_threads()
    yield open_floor(backbone="demo", torch_threads=1)
    torch.set_num_threads(before)
    backbones.forget()


@pytest.fixture
def dataset(tuner: Services, tmp_path: Path) -> DatasetRecord:
    folder = write_folder(tmp_path / "pictures", dict.fromkeys(COLOURS, 6))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}
    files["red/damaged.png"] = files["red/000.png"][:-40]
    return tuner.datasets.add(write_zip(tuner.store.part(), files), "pictures.zip")[0]


def test_a_zip_becomes_a_model(tuner: Services, dataset: DatasetRecord) -> None:
    job, _ = tuner.start_job("tune", CONFIG, dataset_id=dataset.id, name="colours")
    runner(tuner).run_next()
    done = tuner.jobs.get(job.id)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert any("damaged.png" in warning for warning in done.warnings)
    assert done.counters["images_encoded"] > 0
    assert "seconds_tuning" in done.counters
    assert done.metrics is not None
    assert done.model_id is not None
    model = tuner.models.get(done.model_id)
    assert (model.dataset_id, model.method, model.regularizer, model.name) == (dataset.id, "coop", "npt", "colours")
    assert set(model.files) == {"classifier.safetensors", "manifest.json", "report.json"}
    assert tuner.models.report(model.id)["metrics"]["zero_shot"]
    backbone = backbones.load(tuner.settings)
    classifier = Classifier.load(tuner.models.folder(model.id), backbone)
    with tuner.datasets.open(dataset.id) as pictures:
        pixels = backbone.load_pixels(decode_image(pictures.read(pictures.samples[0])))
    scores = classifier.predict(backbone.encode_images(torch.stack([pixels])))
    assert scores.labels == dataset.labels
    events = [fields["event"] for _, fields in tuner.redis.xrange(tuner.keys.events(job.id))]
    assert {"status", "progress", "end"} <= set(events)

    # Other settings on the same pictures encode nothing again; a child of the model starts from it.
    other, _ = tuner.start_job("tune", CONFIG | {"lr": 0.01, "parent": model.id}, dataset_id=dataset.id)
    runner(tuner).run_next()
    again = tuner.jobs.get(other.id)
    assert again.status is JobStatus.SUCCEEDED, again.error
    assert again.counters["images_encoded"] == 0
    assert again.counters["images_cached"] > 0
    assert tuner.models.get(again.model_id or "").parent == model.id


def test_machines_that_share_a_store_keep_their_features_apart(
    tuner: Services, dataset: DatasetRecord, open_floor: Callable[..., Services], tmp_path: Path
) -> None:
    here, there = (open_floor(backbone="demo", features_dir=tmp_path / name) for name in ("here", "there"))
    encoded = []
    for services in (here, here, there):
        job, _ = services.start_job("tune", CONFIG, dataset_id=dataset.id)
        runner(services).run_next()
        encoded.append(services.jobs.get(job.id).counters["images_encoded"])
    assert encoded[0] > 0
    assert encoded[1:] == [0, encoded[0]]
    assert not tuner.settings.features_path.exists()
    assert here.retention.find() == there.retention.find() == []


def test_a_wrong_config_fails_with_every_fault(tuner: Services, dataset: DatasetRecord) -> None:
    job, _ = tuner.start_job("tune", {"epochs": -1, "method": "nonsense"}, dataset_id=dataset.id)
    runner(tuner).run_next()
    error = tuner.jobs.get(job.id).error
    assert error is not None
    assert {item.path for item in error.errors} >= {"epochs", "method"}


def test_an_unknown_backbone_or_parent_fails(tuner: Services, dataset: DatasetRecord) -> None:
    for config, code in [({"backbone": "../etc"}, "unknown-backbone"), ({"parent": "../x"}, "not-found")]:
        job, _ = tuner.start_job("tune", CONFIG | config, dataset_id=dataset.id)
        runner(tuner).run_next()
        error = tuner.jobs.get(job.id).error
        assert error is not None
        assert error.type == code


def test_a_drained_tuning_resumes_to_the_same_bits(
    tuner: Services, dataset: DatasetRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is drained, and whichever thread it goes on in: the first attempts run in one of their own."""
    looks, drain_at, check = 0, 0, JobControl.check

    def counted(control: JobControl) -> None:
        nonlocal looks
        looks += 1
        if looks == drain_at:
            control.stop(Drained("The worker is shutting down."))
        check(control)

    monkeypatch.setattr(JobControl, "check", counted)
    config = CONFIG | {"epochs": 8, "seed": 3, "batch_size": 32}

    def learned(job_id: str) -> tuple[object, str]:
        job = tuner.jobs.get(job_id)
        assert job.status is JobStatus.SUCCEEDED, job.error
        return job.metrics, tuner.models.get(job.model_id or "").files["classifier.safetensors"].sha256

    straight, _ = tuner.start_job("tune", config, dataset_id=dataset.id)
    runner(tuner).run_next()
    looks = 0
    once_more, _ = tuner.start_job("tune", config, dataset_id=dataset.id)
    runner(tuner).run_next()
    assert learned(once_more.id) == learned(straight.id)
    last = looks
    for at in range(2, last + 1, last // 6):
        looks, drain_at = 0, at
        broken, _ = tuner.start_job("tune", config, dataset_id=dataset.id)
        first = threading.Thread(target=runner(tuner).run_next)
        first.start()
        first.join()
        assert tuner.jobs.get(broken.id).status is JobStatus.QUEUED
        drain_at = 0
        runner(tuner).run_next()
        assert learned(broken.id) == learned(straight.id), f"drained at look {at} of {last}"


def test_the_thread_that_computes_keeps_to_the_setting(tuner: Services, dataset: DatasetRecord) -> None:
    torch.set_num_threads(2)  # as if this thread had computed before
    tuner.start_job("tune", CONFIG, dataset_id=dataset.id)
    runner(tuner).run_next()
    assert torch.get_num_threads() == 1
