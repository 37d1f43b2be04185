"""A store with a limit, over HTTP: 507 before anything is written beyond it, whatever comes at once and unannounced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.settings import AppSettings
from tests.support.api import Api, archive, png, running_api
from worker.store.limit import SMALL_BYTES
from worker.usage import measure_counted

LIMIT = 2_000_000
TAIL = b"x" * 300_000


def pictures(seed: int) -> bytes:
    """A data set of about 600 kB that no other seed makes."""
    return archive({f"{label}/{seed}.png": png(label, seed) + TAIL for label in ("red", "blue")})


@pytest.fixture
def server(make_settings: Callable[..., AppSettings]) -> Iterator[Api]:
    with running_api(make_settings(max_store_bytes=LIMIT, uploads_at_once=8)) as running:
        yield running


def in_chunks(data: bytes) -> Iterator[bytes]:
    """Without a Content-Length."""
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


def send(server: Api, data: bytes) -> httpx.Response:
    headers = {"Content-Type": "application/zip"}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        return client.post("/datasets", content=in_chunks(data), headers=headers, params={"audit": "false"})


def test_uploads_at_once_stay_within_the_limit(server: Api) -> None:
    archives = [pictures(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda data: send(server, data), archives))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {201, 507}
    assert 1 <= statuses.count(201) <= LIMIT // len(archives[0])
    for answer in answers:
        if answer.status_code == 507:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "store-full"
            assert "NPT_MAX_STORE_BYTES" in answer.json()["detail"]
    records = statuses.count(201) * 2 * SMALL_BYTES
    assert measure_counted(server.settings.data_dir) <= LIMIT + records
    assert server.parts() == []
    server.services.store.limit.ensure()  # what was refused takes nothing


def test_room_that_is_made_can_be_used(server: Api) -> None:
    kept = []
    for seed in range(10):
        answer = send(server, pictures(seed))
        if answer.status_code == 507:
            break
        kept.append(answer.json()["id"])
    assert answer.status_code == 507
    assert server.client.delete(f"/datasets/{kept[0]}").status_code == 204
    assert send(server, pictures(seed)).status_code == 201


def test_an_upload_that_says_its_length_is_refused_before_it_is_sent(server: Api) -> None:
    headers = {"Content-Type": "application/zip"}
    answer = server.client.post("/datasets", content=b"x" * (LIMIT + 1), headers=headers)
    assert answer.status_code == 507
    assert server.parts() == []


def test_a_full_store_starts_no_job(server: Api) -> None:
    dataset = send(server, pictures(0)).json()["id"]
    server.services.store.put("archives/full", b"x" * (LIMIT - measure_counted(server.settings.data_dir)))
    answer = server.client.post("/tune", data={"dataset_id": dataset})
    assert answer.status_code == 507
    assert server.client.get("/jobs").json()["items"] == []
