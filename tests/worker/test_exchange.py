"""Models out of one store and into another."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from npt_core.errors import ArchiveError, BundleError
from tests.support.bundles import GOOD
from worker.errors import ConflictError, CorruptRecordError, NotFoundError, StoreFullError
from worker.ids import new_id
from worker.records import ModelDraft, ModelRecord
from worker.service import Services
from worker.store.local import LocalStore


def make(services: Services, name: str | None = "digits", **manifest: Any) -> ModelRecord:
    """A model with a manifest that can be believed and one tensor."""
    model_id = new_id("model")
    folder = services.store.path(f"jobs/{model_id}")
    folder.mkdir(parents=True)
    facts = GOOD | {"metrics": {"tuned": {"accuracy": 0.5}, "of": model_id}} | manifest
    (folder / "manifest.json").write_text(json.dumps(facts))
    (folder / "report.json").write_text('{"metrics": {}}')
    header = b'{"learned.ctx":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (folder / "classifier.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    draft = ModelDraft(name=name, backbone="demo", backbone_fingerprint="a" * 64, method="coop", labels=("red",))
    services.models.prepare(folder, draft, model_id=model_id, job_id=None)
    assert services.models.promote(f"jobs/{model_id}", model_id)
    return services.models.get(model_id)


def packed(services: Services, model_id: str) -> bytes:
    return b"".join(services.exchange.pack(model_id)[1])


def take_in(services: Services, data: bytes, **how: Any) -> tuple[ModelRecord, bool]:
    part = services.store.part()
    part.write_bytes(data)
    try:
        with services.exchange.unpacked(part) as arrival:
            return services.exchange.keep(arrival, backbone=how.pop("backbone", "demo"), **how)
    finally:
        part.unlink()


def leftovers(services: Services) -> list[Path]:
    return list((services.store.root / "uploads").glob("*"))


@pytest.fixture
def here(open_floor: Callable[..., Services]) -> Services:
    return open_floor()


@pytest.fixture
def there(open_floor: Callable[..., Services], tmp_path: Path) -> Services:
    """Another server."""
    return open_floor(data_dir=tmp_path / "there", redis_prefix="there")


def test_a_model_arrives_whole(here: Services, there: Services) -> None:
    make(here)
    sent = make(here, dataset_id="d" * 64, parent="model-9", config={"regularizer": "npt"})
    kept, created = take_in(there, packed(here, sent.id), backbone="mine", owner="key-1")
    assert created
    assert kept.id != sent.id
    assert (kept.name, kept.version, kept.owner, kept.job_id) == ("digits", 1, "key-1", None)
    assert (kept.method, kept.regularizer, kept.labels) == ("coop", "npt", ("red", "dark_blue"))
    assert (kept.backbone, kept.backbone_fingerprint) == ("mine", "a" * 64)
    assert (kept.dataset_id, kept.parent) == ("d" * 64, "model-9")
    assert kept.metrics["of"] == sent.id
    assert kept.imported is not None
    assert (kept.imported.id, kept.imported.name, kept.imported.version) == (sent.id, "digits", 2)
    assert kept.imported.created_at == sent.created_at
    assert kept.content == sent.content
    for name in kept.files:
        assert (there.models.folder(kept.id) / name).read_bytes() == (here.models.folder(sent.id) / name).read_bytes()
    assert there.models.verify(kept.id) == ()
    assert leftovers(there) == []


def test_what_was_imported_can_be_exported_and_is_the_same(here: Services, there: Services) -> None:
    sent = make(here)
    kept, _ = take_in(there, packed(here, sent.id))
    back, created = take_in(here, packed(there, kept.id))
    assert (back.id, created) == (sent.id, False)


def test_the_same_model_twice_is_one(here: Services, there: Services) -> None:
    data = packed(here, make(here).id)
    first, _ = take_in(there, data)
    again, created = take_in(there, data)
    assert (again, created) == (first, False)
    assert take_in(there, data, name="digits") == (first, False)
    with pytest.raises(ConflictError, match=first.id):
        take_in(there, data, name="numbers")
    assert len(there.models.list().items) == 1
    there.catalogue.delete(first.id)
    anew, created = take_in(there, data)
    assert (created, anew.version) == (True, 2)
    assert leftovers(there) == []


def test_many_at_once_are_one(here: Services, there: Services) -> None:
    data = packed(here, make(here).id)
    start = threading.Barrier(8)

    def send(_: int) -> tuple[str, bool]:
        start.wait()
        record, created = take_in(there, data)
        return record.id, created

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(send, range(8)))
    assert len({model_id for model_id, _ in found}) == 1
    assert sum(created for _, created in found) == 1


def test_under_another_name_it_is_that_name_s_next_version(here: Services, there: Services) -> None:
    make(there, "numbers")
    kept, _ = take_in(there, packed(here, make(here).id), name="numbers")
    assert (kept.name, kept.version) == ("numbers", 2)


def test_without_a_name(here: Services, there: Services) -> None:
    kept, _ = take_in(there, packed(here, make(here, None).id))
    assert (kept.name, kept.version) == (None, None)


def test_a_damaged_model_is_not_sent(here: Services) -> None:
    record = make(here)
    path = here.models.folder(record.id) / "classifier.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(CorruptRecordError, match=r"classifier.safetensors"):
        here.exchange.pack(record.id)
    path.unlink()
    with pytest.raises(CorruptRecordError, match=r"classifier.safetensors"):
        here.exchange.pack(record.id)
    with pytest.raises(NotFoundError):
        here.exchange.pack("model_" + "0" * 26)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not really", b"\x80\x04."])
def test_what_is_refused_leaves_nothing(there: Services, data: bytes) -> None:
    with pytest.raises((ArchiveError, BundleError)):
        take_in(there, data)
    assert there.models.list().items == []
    assert leftovers(there) == []


@pytest.mark.parametrize("where", ["sync", "move", "put"])
def test_a_full_disk_leaves_nothing(
    here: Services, there: Services, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    data = packed(here, make(here).id)

    def full(*_: object, **__: object) -> None:
        raise StoreFullError("full")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, where, full)
        with pytest.raises(StoreFullError):
            take_in(there, data)
    assert there.models.list().items == []
    assert leftovers(there) == []
    kept, created = take_in(there, data)
    assert created
    assert there.models.get(kept.id) == kept


def test_no_room_is_told_before_anything_is_unpacked(
    here: Services, open_floor: Callable[..., Services], tmp_path: Path
) -> None:
    data = packed(here, make(here).id)
    full = open_floor(data_dir=tmp_path / "full", redis_prefix="full", min_free_bytes=2**60)
    with pytest.raises(StoreFullError):
        take_in(full, data)


def test_what_a_killed_import_left_is_swept(there: Services) -> None:
    folder = there.store.path("uploads/abc.import")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert there.store.sweep(-1) == 1
    assert leftovers(there) == []


def test_a_limit_of_this_server_holds(here: Services, open_floor: Callable[..., Services], tmp_path: Path) -> None:
    data = packed(here, make(here).id)
    strict = open_floor(data_dir=tmp_path / "strict", redis_prefix="strict", max_entry_bytes=8)
    with pytest.raises(BundleError, match="at most 8"):
        take_in(strict, data)
