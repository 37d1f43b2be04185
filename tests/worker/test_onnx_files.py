"""Models as ONNX in the store: the real process on the demo backbone, and what is kept of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from npt_core.onnx_export import RECIPE
from tests.support.api import change_manifest, store_model
from worker.errors import NotFoundError
from worker.onnx_files import ExportFailed, ExportRefused, OnnxFiles
from worker.records import ModelRecord
from worker.service import Services


def children() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [child for child in found if "worker.onnx_child" in child.cmdline()]


@pytest.fixture
def model(services: Services) -> ModelRecord:
    return services.models.get(store_model(services, "demo"))


def leftovers(services: Services) -> list[Path]:
    return list((services.store.root / "uploads").glob("*"))


class FakeProcess(OnnxFiles):
    """Writes some bytes where the real one takes seconds."""

    size = 10
    runs = 0

    def _run(self, record: ModelRecord, out: Path) -> Any:
        self.runs += 1
        out.write_bytes(b"x" * self.size)
        return {"probabilities": 0.0}


@pytest.fixture
def fake(services: Services) -> FakeProcess:
    return FakeProcess(services.store, services.models, services.settings)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_is_written_by_a_process_of_its_own_and_kept(services: Services, model: ModelRecord) -> None:
    import onnxruntime

    assert services.onnx.find(model.id) is None
    services.onnx.make(model)
    found = services.onnx.find(model.id)
    assert found is not None
    file, size = found
    with file:
        data = file.read()
    assert len(data) == size > 1_000_000
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["model_id"], facts["name"], facts["version"]) == (model.id, "colours", "1")
    assert children() == []
    assert leftovers(services) == []
    services.onnx.make(model)  # at once: it is there
    services.catalogue.delete(model.id)
    assert services.onnx.find(model.id) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_process_refuses_is_told(open_floor: Callable[..., Services]) -> None:
    services = open_floor()
    record = services.models.get(store_model(services, "demo"))
    change_manifest(services, record.id, lambda text: text.replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(ExportRefused) as caught:
        services.onnx.make(record)
    assert caught.value.code == "fingerprint-mismatch"
    assert "demo" in caught.value.message
    assert leftovers(services) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_local_file_s_path_is_told_to_nobody(open_floor: Callable[..., Services], tmp_path: Path) -> None:
    services = open_floor(backbone=f"local:demo=ViT-B-32@{tmp_path}/none.pt")
    with pytest.raises(ExportFailed) as caught:
        services.onnx.make(services.models.get(store_model(services, "demo")))
    assert str(tmp_path) not in caught.value.message


def test_a_process_that_takes_too_long_is_ended(open_floor: Callable[..., Services]) -> None:
    services = open_floor(onnx_timeout_s=0.2)
    record = services.models.get(store_model(services, "demo"))
    with pytest.raises(ExportFailed, match="0 s"):
        services.onnx.make(record)
    assert children() == []
    assert leftovers(services) == []


def test_a_process_that_is_killed_is_told(services: Services, model: ModelRecord) -> None:
    errors: list[BaseException] = []

    def make() -> None:
        try:
            services.onnx.make(model)
        except ExportFailed as error:
            errors.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    for child in _awaited(children):
        child.kill()
    thread.join(60)
    assert "log" in str(errors[0])
    assert services.onnx.find(model.id) is None
    assert leftovers(services) == []


def test_closing_ends_the_process_and_starts_no_other(services: Services, model: ModelRecord) -> None:
    errors: list[BaseException] = []

    def make() -> None:
        try:
            services.onnx.make(model)
        except ExportFailed as error:
            errors.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    _awaited(children)
    services.onnx.close()
    thread.join(60)
    assert errors
    assert children() == []
    with pytest.raises(ExportFailed, match="shutting down"):
        services.onnx.make(model)


def _awaited(probe: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(0.01)
    raise AssertionError("no process was started")


def test_many_at_once_make_it_once(fake: FakeProcess, model: ModelRecord) -> None:
    threads = [threading.Thread(target=fake.make, args=(model,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.runs == 1


def test_a_model_that_is_deleted_meanwhile_leaves_no_file(
    services: Services, fake: FakeProcess, model: ModelRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(record: ModelRecord, out: Path) -> Any:
        out.write_bytes(b"x")
        services.catalogue.delete(record.id)
        return {}

    monkeypatch.setattr(fake, "_run", run)
    with pytest.raises(NotFoundError):
        fake.make(model)
    assert services.store.names("exports") == []
    assert leftovers(services) == []


@pytest.fixture
def small(open_floor: Callable[..., Services]) -> tuple[Services, FakeProcess, list[ModelRecord]]:
    services = open_floor(onnx_cache_bytes=25)
    records = [services.models.get(store_model(services, "demo", n_ctx=n + 1)) for n in range(3)]
    return services, FakeProcess(services.store, services.models, services.settings), records


def test_the_least_used_files_go_first(small: tuple[Services, FakeProcess, list[ModelRecord]]) -> None:
    services, files, (one, two, three) = small
    for age, record in ((300, one), (200, two)):
        files.make(record)
        path = services.store.path(f"exports/{record.id}/{RECIPE}.onnx")
        os.utime(path, (time.time() - age,) * 2)
    used = files.find(one.id)  # used just now
    assert used is not None
    used[0].close()
    files.make(three)
    assert services.store.names("exports") == sorted([one.id, three.id])


def test_a_file_larger_than_the_cache_is_kept_until_the_next(
    small: tuple[Services, FakeProcess, list[ModelRecord]],
) -> None:
    services, files, (one, two, _) = small
    files.size = 100
    files.make(one)
    assert services.store.names("exports") == [one.id]
    files.make(two)
    assert services.store.names("exports") == [two.id]
