"""Whoever asks for ONNX waits a bit, is told to come again, and gets the file that was made meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.onnx_desk import MAX_WAITING, OnnxDesk
from app.problems import Problem
from app.settings import AppSettings
from tests.support.api import Api, running_api, store_model
from tests.support.service import wait_for
from worker.onnx_files import ExportFailed, OnnxFiles
from worker.records import ModelRecord

BYTES = b"onnx" * 1_000_000


class Slow(OnnxFiles):
    """In the place of a process: waits until it may, then writes some bytes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.go_on = threading.Event()
        self.fail = False
        self.made: list[str] = []

    def _run(self, record: ModelRecord, out: Path) -> Any:
        assert self.go_on.wait(60)
        if self.fail:
            raise ExportFailed("The process died.")
        self.made.append(record.id)
        out.write_bytes(BYTES)
        return {}

    def close(self) -> None:
        self.go_on.set()
        super().close()


@pytest.fixture(scope="module")
def running(make_settings: Callable[..., AppSettings], towers: tuple[str, str]) -> Iterator[Api]:
    with running_api(make_settings(backbone=towers[0])) as found:
        yield found


@pytest.fixture
def slow(running: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    services, desk = running.services, running.app.state.context.onnx
    files = Slow(services.store, services.models, services.settings)
    monkeypatch.setattr(desk, "_files", files)
    monkeypatch.setattr(desk, "_wait_s", 0.3)
    yield files
    files.go_on.set()


def ask(running: Api, model: str) -> Any:
    return running.client.get(f"/models/{model}/export", params={"format": "onnx"})


def ask_until(running: Api, model: str, status: int) -> Any:
    answer = ask(running, model)
    return answer if answer.status_code == status else None


def test_come_again_until_it_is_there(running: Api, towers: tuple[str, str], slow: Slow) -> None:
    model = store_model(running.services, towers[0])
    for _ in range(2):
        answer = ask(running, model)
        assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
        assert int(answer.headers["retry-after"]) >= 1
        assert running.client.get("/livez").status_code == 200  # nobody else waits
    slow.go_on.set()
    answer = wait_for("the file", lambda: ask_until(running, model, 200))
    assert answer.content == BYTES
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(BYTES))
    assert answer.headers["content-disposition"] == f'attachment; filename="{model}.onnx"'
    assert slow.made == [model]
    assert ask(running, model).content == BYTES
    assert slow.made == [model]


def test_a_failure_is_told_once_and_tried_again(running: Api, towers: tuple[str, str], slow: Slow) -> None:
    model = store_model(running.services, towers[0])
    slow.fail = True
    assert ask(running, model).status_code == 503
    slow.go_on.set()
    answer = wait_for("the failure", lambda: ask_until(running, model, 500))
    assert (answer.status_code, answer.json()["code"]) == (500, "export-failed")
    slow.fail = False
    assert ask(running, model).status_code == 200


def test_a_reader_that_goes_away_leaves_no_open_file(running: Api, towers: tuple[str, str], slow: Slow) -> None:
    model = store_model(running.services, towers[0])
    slow.go_on.set()
    wait_for("the file", lambda: ask(running, model).status_code == 200)
    for _ in range(3):
        with running.client.stream("GET", f"/models/{model}/export", params={"format": "onnx"}) as answer:
            assert next(answer.iter_raw())

    def closed() -> bool:
        return not [one.path for one in psutil.Process().open_files() if one.path.endswith(".onnx")]

    wait_for("the file to be closed", closed, 20)


def test_only_some_wait_in_line(running: Api, towers: tuple[str, str], slow: Slow) -> None:
    models = [store_model(running.services, towers[0], n_ctx=n + 1) for n in range(MAX_WAITING + 1)]
    codes = [ask(running, model).json()["code"] for model in models]
    assert codes == ["not-ready"] * MAX_WAITING + ["overloaded"]
    slow.go_on.set()
    wait_for("the last one", lambda: ask_until(running, models[-1], 200))
    assert models[-1] in slow.made


def test_closing_waits_for_what_ends(running: Api, towers: tuple[str, str]) -> None:
    services = running.services
    files = Slow(services.store, services.models, services.settings)
    record = services.models.get(store_model(services, towers[0]))

    async def scenario() -> None:
        desk = OnnxDesk(files, services.models, running.app.state.context.inference.backbones, wait_s=0.05)
        with pytest.raises(Problem) as caught:
            await desk.open(record.id)
        assert caught.value.code == "not-ready"
        await desk.close()

    asyncio.run(scenario())
