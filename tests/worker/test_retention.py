"""Each kind of thing that may go: when it goes, and when it stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from npt_core.onnx_export import RECIPE
from tests.support.in_process import runner
from tests.support.redis_server import RedisServer
from tests.support.zips import classes, write_zip
from worker import retention
from worker.errors import NotFoundError
from worker.features import feature_cache
from worker.records import DatasetRecord, JobStatus, utcnow
from worker.retention import Policy
from worker.service import Services

OLD = Policy(datasets_days=30, jobs_days=30)
DAY_S = 86400


def stored(services: Services, *labels: str) -> DatasetRecord:
    return services.datasets.add(write_zip(services.store.part(), classes(*labels)))[0]


def aged(services: Services, record: DatasetRecord, days: float) -> None:
    """As if it was sent, and used, that long ago."""
    then = record.model_copy(update={"created_at": utcnow() - timedelta(days=days)})
    services.store.put(f"datasets/{record.id}/dataset.json", then.to_json())
    unused(services.store.path(f"datasets/{record.id}/dataset.json"), days)


def unused(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY_S,) * 2)


def ended(services: Services, days: float, **config: object) -> str:
    """A job that ended that long ago; its id."""
    job_id = services.start_job("sleep", {"steps": 1, "pause": 0, **config})[0].id
    while runner(services).run_next() is not None:
        pass
    end = services.jobs.files.end(job_id)
    assert end is not None
    then = end.model_copy(update={"finished_at": utcnow() - timedelta(days=days)})
    services.store.put(f"jobs/{job_id}/end.json", then.to_json())
    return job_id


def kinds(services: Services, policy: Policy | None = None) -> list[tuple[str, str]]:
    return [(waste.kind, waste.id) for waste in services.retention.find(policy)]


def test_nothing_goes_by_itself_without_days(services: Services) -> None:
    aged(services, stored(services, "a", "b"), 10_000)
    ended(services, 10_000)
    assert services.retention.policy == Policy(0, 0)
    assert kinds(services) == []


def test_old_data_sets_go_and_those_in_use_stay(services: Services) -> None:
    old, fresh, of_model, of_job, used = (stored(services, f"{n}a", f"{n}b") for n in range(5))
    job_id = services.start_job("sleep", {"steps": 1, "pause": 0}, dataset_id=of_model.id)[0].id
    while runner(services).run_next() is not None:
        pass
    assert services.jobs.get(job_id).model_id
    services.start_job("sleep", {}, dataset_id=of_job.id)
    for record in (old, of_model, of_job, used):
        aged(services, record, 31)
    aged(services, fresh, 29)
    services.datasets.add(write_zip(services.store.part(), classes("4a", "4b")))  # sent again: a use
    removed = services.retention.sweep(OLD)
    assert [(waste.kind, waste.id) for waste in removed] == [("dataset", old.id), ("archive", old.archives[0])]
    assert sum(waste.bytes for waste in removed) > old.size
    assert {record.id for record in services.datasets.list().items} == {fresh.id, of_model.id, of_job.id, used.id}


def test_a_job_started_on_a_data_set_is_a_use_of_it(services: Services) -> None:
    record = stored(services, "a", "b")
    aged(services, record, 31)
    job = services.start_job("sleep", {}, dataset_id=record.id)[0]
    services.cancel_job(job.id)
    assert kinds(services, OLD) == []


def test_a_record_that_cannot_be_read_keeps_all_data_sets(services: Services) -> None:
    aged(services, stored(services, "a", "b"), 31)
    ended(services, 0)
    model = services.models.list().items[0].id
    services.store.put(f"models/{model}/model.json", b"{")
    assert kinds(services, OLD) == []


def test_old_jobs_go_with_their_results_and_their_models_stay(services: Services, redis_server: RedisServer) -> None:
    old, fresh = ended(services, 31), ended(services, 29)
    waiting = services.start_job("sleep", {})[0].id
    model = services.jobs.get(old).model_id
    assert model
    assert kinds(services, OLD) == [("job", old)]
    services.retention.sweep(OLD)
    with pytest.raises(NotFoundError):
        services.jobs.get(old)
    assert services.models.verify(model) == ()
    assert [job.id for job in services.jobs.list().items] == [waiting, fresh]
    assert [job.id for job in services.jobs.list(status=JobStatus.SUCCEEDED).items] == [fresh]
    with redis_server.client() as client:
        assert [key for key in client.scan_iter() if old in key] == []


def test_a_listing_forgets_a_job_that_was_removed_while_redis_was_away(services: Services) -> None:
    services.reconciler.run()  # before, listings do not use what Redis knows
    gone = ended(services, 0)
    services.store.delete(f"jobs/{gone}")
    key = services.keys.status(JobStatus.SUCCEEDED)
    assert services.redis.zscore(key, gone) is not None
    assert services.jobs.list(status=JobStatus.SUCCEEDED).items == []
    assert services.redis.zscore(key, gone) is None


def test_an_end_of_a_job_that_was_removed_makes_no_new_one(services: Services) -> None:
    job_id = ended(services, 0)
    end = services.jobs.files.end(job_id)
    assert end
    assert services.jobs.remove(job_id)
    assert not services.jobs.finish(job_id, end)
    assert services.store.names("jobs") == []


def test_what_dead_processes_left(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SETTLING_S", -1.0)
    job_id = ended(services, 0)
    services.jobs.files.save_checkpoint(job_id, 1, b"half")
    part = services.store.part()
    part.write_bytes(b"half an upload")
    left = {
        "leftover": [f"datasets/{'0' * 64}", "jobs/job_00000000000000000000000000", f"jobs/{job_id}/checkpoint"],
        "export": ["exports/model_00000000000000000000000000"],
        "note": [f"contents/{'1' * 64}/model_00000000000000000000000000"],
        "claim": ["idempotency/old.json"],
        "upload": [f"uploads/{part.name}"],
    }
    services.store.put(f"{left['leftover'][0]}/manifest.json", b"{}")
    services.store.put(f"{left['leftover'][1]}/input.zip", b"PK")
    services.store.put(f"{left['export'][0]}/1.onnx", b"onnx")
    services.store.put(left["note"][0], b"")
    services.store.put(
        left["claim"][0], b'{"job_id": "job_00000000000000000000000001", "created_at": "2020-01-01T00:00:00Z"}'
    )
    for path in (part, services.store.path(left["leftover"][1])):
        unused(path, 1)
    strange = services.store.path("contents") / "not ours.txt"
    strange.write_bytes(b"")
    expected = {(kind, place) for kind, places in left.items() for place in places}
    assert set(kinds(services)) == expected
    assert {(waste.kind, waste.id) for waste in services.retention.sweep()} == expected
    assert kinds(services) == []
    assert services.jobs.get(job_id).status is JobStatus.SUCCEEDED


def test_features_of_unknown_backbones_go_when_nobody_uses_them(services: Services) -> None:
    from npt_core.tuning.cache import grouped

    cache = feature_cache(services.settings)
    features = np.ones(4, dtype=np.float32)
    cache.put_many({grouped("a" * 64, "1"): features, grouped("b" * 64, "2"): features})
    assert kinds(services) == []
    with cache._using() as connection:
        connection.execute("UPDATE feature SET used = used - 8 * 86400 WHERE key LIKE 'a%'")
    assert kinds(services) == [("features", "a" * 16)]
    services.retention.sweep()
    assert [group.name for group in cache.groups()] == ["b" * 16]


def test_onnx_files_of_an_earlier_recipe_go(services: Services) -> None:
    ended(services, 0)
    folder = f"exports/{services.models.list().items[0].id}"
    for recipe in ("0", RECIPE):
        services.store.put(f"{folder}/{recipe}.onnx", b"onnx")
    assert [waste.id for waste in services.retention.sweep()] == [f"{folder}/0.onnx"]
    assert services.store.names(folder) == [f"{RECIPE}.onnx"]


def test_one_process_sweeps_an_hour(open_floor: Callable[..., Services]) -> None:
    first, second = open_floor(), open_floor()
    path = first.store.part()
    path.write_bytes(b"")
    unused(path, 1)
    with first.store.try_lock("sweep") as held:
        assert held
        second.retention.sweep_in_turn(3600)
        assert path.exists()
    second.retention.sweep_in_turn(3600)
    assert not path.exists()
    path.write_bytes(b"")
    unused(path, 1)
    first.retention.sweep_in_turn(3600)
    assert path.exists()


def test_the_model_of_a_job_whose_worker_died_at_its_end_is_saved_first(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SETTLING_S", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr(services.jobs, "settle", lambda job_id: None)
        services.start_job("sleep", {"steps": 1, "pause": 0})
        runner(services).run_next()
    assert services.models.list().items == []
    assert [waste.kind for waste in services.retention.sweep()] == ["leftover", "leftover"]
    (model,) = services.models.list().items
    assert services.models.verify(model.id) == ()
