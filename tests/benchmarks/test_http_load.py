"""The clients of the serving benchmarks: they send what users send, and count what came back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.settings import AppSettings
from benchmarks.over_http.load import Load, Outcome, run
from benchmarks.over_http.pictures import write_pictures
from tests.support.api import Api, running_api, store_model, write_towers
from tests.support.redis_server import RedisServer


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Api]:
    towers = write_towers(folder)
    with RedisServer() as redis:
        own = AppSettings(
            data_dir=folder / "data",
            redis_url=redis.url,
            backbone=towers[0],
            device="cpu",
            min_free_bytes=0,
            torch_threads=1,
            **settings,
        )
        with running_api(own) as api:
            yield api


def test_every_form_is_asked_and_every_answer_counted(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", 3)
    with serving(tmp_path) as api:
        towers = api.settings.backbone_entries
        models = [store_model(api.services, towers[0], name=name) for name in ("one", "two")]
        forms = [{"model": models[0]}, {"model": models}]
        load = Load(api.url, str(tmp_path / "pictures"), forms, each=8, seconds=600, in_order=True)
        outcome = run(load)
        assert outcome.statuses == {"200": 8}
        assert len(outcome.seconds) == 8
        assert min(outcome.seconds) <= outcome.percentile(0.5) <= max(outcome.seconds)
        assert outcome.rate > 0
        text = api.client.get("/metrics").text
        assert 'npt_predict_images_total{outcome="ok"} 8.0' in text
        assert 'npt_cache_requests_total{cache="classifiers",result="hit"} 10.0' in text  # 12 looks, 2 of them first


def test_what_is_refused_is_counted_by_its_status(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", 1)
    with serving(tmp_path) as api:
        outcome = run(Load(api.url, str(tmp_path / "pictures"), [{"model": "nobody"}], clients=2, each=2, seconds=600))
        assert outcome.statuses == {"404": 4}
        assert outcome.seconds == []


def test_percentiles_of_a_known_list() -> None:
    outcome = Outcome([float(n) for n in range(1, 102)], {"200": 101}, 1.0, 0.0, True)
    assert outcome.percentile(0.5) == pytest.approx(51, abs=0.2)
    assert outcome.percentile(0.99) == pytest.approx(100, abs=0.2)
