"""Ids, addresses, settings, identity, logs."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from npt_core.errors import ConfigError
from worker import ids
from worker.errors import NotFoundError
from worker.events import _after
from worker.identity import alive, boot_id, process_name
from worker.logs import setup_logging
from worker.redis_url import RedisAddress
from worker.settings import WorkerSettings


def test_ids_rise_even_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [ids.new_id("job") for _ in range(1000)]
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1)
    later = [ids.new_id("job") for _ in range(100)]
    assert first + later == sorted(set(first + later))
    assert all(ids.check_id(one, "job") == one for one in first)


@given(st.text(max_size=60))
def test_no_other_text_is_an_id(text: str) -> None:
    with pytest.raises(NotFoundError):
        ids.check_id(text, "job")
    with pytest.raises(NotFoundError):
        ids.check_dataset_id(text)


def test_an_id_of_another_kind_is_none_of_mine() -> None:
    with pytest.raises(NotFoundError):
        ids.check_id(ids.new_id("model"), "job")


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://u:p@h/2", "rediss://u:p@h/2?ssl_cert_reqs=required"),
        ("rediss://h?ssl_ca_certs=/ca.pem", "rediss://h?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("unix://u:p%40@/run/redis.sock", "redis+socket://u:p%40@/run/redis.sock"),
        ("redis+socket:///run/redis.sock?virtual_host=3", "redis+socket:///run/redis.sock?virtual_host=3"),
    ],
)
def test_addresses(url: str, broker: str) -> None:
    address = RedisAddress.parse(url)
    assert address.broker_url == broker
    assert "p%40" not in str(address)
    assert ":p@" not in repr(address)


@pytest.mark.parametrize("url", ["", "http://h", "redis://", "unix://relative", "redis://h:port-secret/0", "h:6379"])
def test_bad_addresses_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisAddress.parse(url)
    assert "secret" not in caught.value.message


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPT_BACKBONE", "demo")
    monkeypatch.setenv("NPT_BACKBONES", " ViT-B-16/laion2b_s34b_b88k , demo,")
    monkeypatch.setenv("NPT_REDIS_URL", "redis://:verysecret@h/0")
    monkeypatch.setenv("NPT_DATA_DIR", "some/where")
    settings = WorkerSettings()
    assert settings.backbone_entries == ("demo", "ViT-B-16/laion2b_s34b_b88k")
    assert settings.data_dir.is_absolute()
    assert settings.redis_address == "redis://:verysecret@h/0"
    assert "verysecret" not in repr(settings)
    monkeypatch.setenv("NPT_REDIS_URL", "")
    assert WorkerSettings().redis_address == f"unix://{settings.data_dir}/run/redis.sock"


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in WorkerSettings.model_fields.items() if not field.description] == []


def test_processes_are_told_apart() -> None:
    assert boot_id() == boot_id() != ""
    assert alive(process_name())
    ended = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(ended.pid)
    assert alive(name)
    ended.kill()
    assert not _soon_alive(name)  # a zombie is dead already
    ended.communicate()
    assert not alive(name)
    assert not alive(f"{os.getpid()}-0")  # the number came again, the start did not
    assert not alive("")


def _soon_alive(name: str) -> bool:
    return all(alive(name) for _ in range(1000))


@given(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_stream_ids_are_compared_as_numbers(left: tuple[int, int], right: tuple[int, int]) -> None:
    assert _after("{}-{}".format(*left), "{}-{}".format(*right)) == (left > right)


def test_logs_are_one_json_object_a_line() -> None:
    out = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        setup_logging(WorkerSettings(log_json=True), out)
        structlog.get_logger("a").info("something", job="job_1", count=2)
        logging.getLogger("library").warning("said %s", "this")
        try:
            raise ValueError("inside")
        except ValueError:
            structlog.get_logger("a").exception("went wrong", job="job_1")
        logging.getLogger("celery").info("too much")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["something", "said this", "went wrong"]
    assert lines[0] | {"job": "job_1", "count": 2, "level": "info"} == lines[0]
    assert "ValueError: inside" in lines[2]["exception"]
