"""The metrics: what is documented and what is exposed are the same; conventions; a Redis that hangs."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.settings import AppSettings
from tests.support.api import Api, coloured_zip, png, running_api
from tests.support.in_process import runner
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

ROW = re.compile(r"\| `(npt_\w+)` \| (counter|gauge|histogram) \|([^|]*)\| [^|]+ \|")
SUFFIXES = ("_seconds", "_bytes", "_total", "_size", "_active", "_up")
COUNTS = {"npt_jobs", "npt_workers", "npt_predict_pending_images", "npt_event_streams"}
"""Gauges of things that are counted: their unit is the thing."""


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Name -> (type, labels), from the table of docs/operations.md."""
    rows = [ROW.fullmatch(line) for line in (ROOT / "docs" / "operations.md").read_text().splitlines()]
    return {row[1]: (row[2], frozenset(re.findall(r"`(\w+)`", row[3]))) for row in rows if row}


@pytest.fixture(scope="module")
def used(api: Api) -> dict[str, Metric]:
    """The metrics of a server where one of everything has happened."""
    api.client.post("/datasets", content=coloured_zip(first_seed=70), headers={"Content-Type": "application/zip"})
    api.services.start_job("sleep", {"steps": 1})
    while runner(api.services).run_next() is not None:
        pass
    for _ in range(2):
        files = {"images": ("a.png", png())}
        answer = api.client.post("/predict", files=files, data={"model": "zero-shot", "labels": '["a", "b"]'})
        assert answer.status_code == 200, answer.text
    api.services.usage.refresh()
    return families(api.client.get("/metrics").text)


def test_the_table_names_every_metric_and_nothing_else(used: dict[str, Metric]) -> None:
    exposed = {}
    for name, family in used.items():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exposed[f"{name}_total" if family.type == "counter" else name] = (family.type, frozenset(labels))
    assert exposed == documented()


def test_names_have_one_prefix_and_a_unit(used: dict[str, Metric]) -> None:
    for name, family in used.items():
        assert name.startswith("npt_")
        assert family.documentation.endswith(".")
        if family.type != "counter":
            assert name.endswith(SUFFIXES) or name in COUNTS, name


def test_labels_have_few_values(used: dict[str, Metric]) -> None:
    """No id, no path of a client, no exact status where there are buckets."""
    for name, family in used.items():
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert not re.search(r"[0-9a-z]{20}", value), (name, label, value)
    statuses = {sample.labels["status"] for sample in used["npt_http_request_duration_seconds"].samples}
    assert statuses <= {"2xx", "3xx", "4xx", "5xx"}


def test_what_happened_is_counted(used: dict[str, Metric]) -> None:
    def value(family: str, **labels: str) -> float:
        found = [s.value for s in used[family].samples if labels.items() <= s.labels.items()]
        return max(found)

    assert value("npt_jobs_finished", kind="sleep", status="succeeded") >= 1
    assert value("npt_job_phase_duration_seconds", kind="sleep", phase="tuning") > 0
    assert value("npt_cache_requests", cache="classifiers", result="hit") >= 1
    assert value("npt_cache_requests", cache="backbones", result="miss") >= 1
    assert value("npt_encoded_images", by="api") >= 2
    assert value("npt_store_bytes", kind="datasets") > 0
    assert value("npt_redis_up") == 1


def test_a_redis_that_hangs_or_is_away_leaves_out_what_it_knows(make_settings: Callable[..., AppSettings]) -> None:
    with RedisServer() as server, running_api(make_settings(redis_url=server.url)) as running:
        whole = set(families(running.client.get("/metrics").text))
        server.pause()
        try:
            hung = families(running.client.get("/metrics").text)
        finally:
            server.resume()
        server.kill()
        away = families(running.client.get("/metrics").text)
        of_redis = {
            "npt_jobs", "npt_workers", "npt_jobs_finished", "npt_job_duration_seconds", "npt_job_wait_seconds",
            "npt_job_phase_duration_seconds",
        }  # fmt: skip
        for found in (hung, away):
            assert found["npt_redis_up"].samples[0].value == 0
            assert whole - set(found) - {"npt_store_bytes"} == of_redis


def test_jobs_stay_counted_when_the_api_is_started_again(make_settings: Callable[..., AppSettings]) -> None:
    settings = make_settings()
    for _ in range(2):
        with running_api(settings) as running:
            for _ in range(2):
                made = running.services.start_job("fail", {})[0].id
                while runner(running.services).run_next() is not None:
                    pass
                running.services.jobs.settle(made)  # said again
                running.services.redis.delete(running.services.keys.job(made))  # what is known for a day
                running.services.jobs.settle(made)
            running.services.reconciler.run()
            ended = families(running.client.get("/metrics").text)["npt_jobs_finished"].samples
    assert [(sample.labels, sample.value) for sample in ended] == [({"kind": "fail", "status": "failed"}, 4.0)]
