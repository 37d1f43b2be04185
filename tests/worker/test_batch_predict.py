"""The batch of predictions: rows, files, what a death costs, stopping, and that nothing is left behind."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from npt_core.errors import ArchiveError, Drained
from npt_core.serving import stream
from tests.support.api import png, store_model, write_towers
from tests.support.in_process import runner
from tests.support.zips import write_zip
from worker import backbones
from worker.errors import ConflictError, NotFoundError
from worker.integrity import Integrity
from worker.parts import Parts
from worker.predictions import CSV, FILES, JSONL, count_files
from worker.records import JobRecord, JobStatus
from worker.service import Services
from worker.usecases import batch_predict

LABELS = ["red", "green", "blue"]
ZERO_SHOT = {"models": ["zero-shot"], "labels": LABELS, "top_k": 2}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture
def floor(
    open_floor: Callable[..., Services], towers: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Services]:
    """The worker floor with two tiny random CLIPs; two batches of four pictures make a part."""
    monkeypatch.setattr(stream, "BATCH_CPU", 4)
    monkeypatch.setattr(batch_predict, "PART_BATCHES", 2)
    backbones.forget()
    yield open_floor(backbone=towers[0], backbones=(towers[1],), device="cpu")
    backbones.forget()


def files(n: int, **more: bytes) -> dict[str, bytes]:
    return {f"{number % 3}/{number:03d}.png": png(LABELS[number % 3], number) for number in range(n)} | more


def start(services: Services, entries: dict[str, bytes], config: dict[str, Any] = ZERO_SHOT) -> str:
    part = write_zip(services.store.part(), entries)
    return services.start_job("predict", config, archive=part)[0].id


def done(services: Services, entries: dict[str, bytes], config: dict[str, Any] = ZERO_SHOT) -> JobRecord:
    job_id = start(services, entries, config)
    runner(services).run_next()
    return services.jobs.get(job_id)


def made(services: Services, job_id: str, format: str) -> bytes:
    return services.jobs.files.result(job_id, FILES[format]).read_bytes()


def rows(services: Services, job_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in made(services, job_id, JSONL).splitlines()]


def left(services: Services, job_id: str) -> set[str]:
    """The names in the job's folder that are not records."""
    folder = services.store.path(f"jobs/{job_id}")
    return {path.name for path in folder.iterdir() if path.suffix != ".json"} - {"attempts"}


def test_every_file_has_its_row_in_the_order_of_the_archive(floor: Services) -> None:
    entries = {"z.png": png("red", 1), "notes.txt": b"no picture", "a/b.png": png("blue", 2), "bad.png": b"\x89PNG"}
    entries |= {"__MACOSX/z.png": b"litter", ".DS_Store": b"litter"}
    job = done(floor, entries)
    assert job.status is JobStatus.SUCCEEDED, job.error
    found = rows(floor, job.id)
    assert [row["filename"] for row in found] == ["z.png", "notes.txt", "a/b.png", "bad.png"]
    assert [row.keys() for row in found[::2]] == [{"filename", "model", "top", "rejected"}] * 2
    for row in found[::2]:
        assert len(row["top"]) == 2
        assert row["top"][0]["probability"] >= row["top"][1]["probability"]
        assert row["model"] == "zero-shot"
    for row in found[1::2]:
        assert (row["top"], row["rejected"]) == ([], False)
        assert row["error"]["code"] == "invalid-image"
    assert job.result is not None
    expected = {"images": 4, "unreadable": 2, "rows": 4, "rejected": 0}
    assert {key: job.result[key] for key in expected} == expected
    assert job.result["skipped"] == {"__MACOSX": 1, "dotfiles": 1}
    assert job.counters["images"] == 4
    assert left(floor, job.id) == {"results"}
    assert job.progress is not None
    assert (job.progress.phase, job.progress.step, job.progress.total_steps) == ("saving", 4, 4)


def test_the_files_are_what_the_record_says(floor: Services) -> None:
    import hashlib

    job = done(floor, files(11))
    assert job.result is not None
    for format in (JSONL, CSV):
        data = made(floor, job.id, format)
        assert job.result["files"][format] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_results_that_turned_are_told(floor: Services) -> None:
    job = done(floor, files(3))
    integrity = Integrity(floor.store)
    assert integrity.look("job", job.id).damage == ()
    for format in ("jsonl", "csv"):
        path = floor.jobs.files.result(job.id, f"results.{format}")
        data = path.read_bytes()
        path.write_bytes(data.replace(b"0.", b"1.", 1))
        (damage,) = integrity.look("job", job.id).damage
        assert (damage.id, damage.file) == (job.id, f"results/results.{format}")
        assert "SHA-256 differs; start the job again" in damage.what
        path.write_bytes(data)


def test_the_table_says_the_same(floor: Services) -> None:
    entries = {"=1+1.png": png("red", 1), "@x.png": b"text", 'a,b".png': png("blue", 2), "ü.png": png("green", 3)}
    job = done(floor, entries)
    table = list(csv.DictReader(io.StringIO(made(floor, job.id, CSV).decode(), newline="")))
    assert list(table[0]) == [
        *("filename", "model", "label", "probability", "similarity", "rejected", "error"),
        *("label_2", "probability_2", "similarity_2"),
    ]
    assert [line["filename"] for line in table] == ["'=1+1.png", "'@x.png", 'a,b".png', "ü.png"]
    for line, row in zip(table, rows(floor, job.id), strict=True):
        for one, end in zip(row["top"], ("", "_2"), strict=False):
            assert line[f"label{end}"] == one["label"]
            assert float(line[f"probability{end}"]) == one["probability"]
            assert float(line[f"similarity{end}"]) == one["similarity"]
        assert line["rejected"] == "false"
        assert line["error"] == row.get("error", {}).get("detail", "")


def test_several_models_answer_in_their_order(floor: Services, towers: tuple[str, str]) -> None:
    here, there = (store_model(floor, tower) for tower in towers)
    job = done(floor, files(5) | {"x.txt": b""}, {"models": [there, "zero-shot", here], "labels": LABELS, "top_k": 1})
    assert job.status is JobStatus.SUCCEEDED, job.error
    found = rows(floor, job.id)
    assert [row["model"] for row in found] == [there, "zero-shot", here] * 6
    assert [row["filename"] for row in found[::3]] == [*files(5), "x.txt"]
    assert job.result is not None
    assert (job.result["images"], job.result["unreadable"], job.result["rows"]) == (6, 1, 18)
    alone = rows(floor, done(floor, files(5), {"models": [here], "top_k": 1}).id)
    assert [row["top"] for row in alone] == [row["top"] for row in found[2:15:3]]


def test_begun_again_it_goes_on_and_ends_with_the_same_files(floor: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drained attempt keeps its parts; the next one reads only what they do not cover."""
    entries = files(30) | {"x.txt": b"x"}
    straight = done(floor, entries)
    broken = start(floor, entries)
    add, read, seen = Parts.add, batch_predict._read, list[str]()

    def draining(self: Parts, start: int, end: int, data: bytes) -> None:
        add(self, start, end, data)
        if start == 8:
            raise Drained("The worker is shutting down.")

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "add", draining)
        runner(floor).run_next()
    assert floor.jobs.get(broken).status is JobStatus.QUEUED
    assert Parts(floor.store, broken).done() == 16
    monkeypatch.setattr(batch_predict, "_read", lambda archive, entry: seen.append(entry.path) or read(archive, entry))
    runner(floor).run_next()
    again = floor.jobs.get(broken)
    assert again.status is JobStatus.SUCCEEDED, again.error
    assert sorted(seen) == sorted(list(entries)[16:])
    assert again.counters["images"] == 15
    for format in (JSONL, CSV):
        assert made(floor, broken, format) == made(floor, straight.id, format)


class TestItEndsOtherwise:
    def test_cancelled(self, floor: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        job_id = start(floor, files(40))
        add = Parts.add

        def cancelling(self: Parts, *args: Any) -> None:
            add(self, *args)
            floor.jobs.files.ask_cancel(job_id)

        monkeypatch.setattr(Parts, "add", cancelling)
        runner(floor).run_next()
        assert floor.jobs.get(job_id).status is JobStatus.CANCELLED
        assert left(floor, job_id) == set()

    @pytest.mark.parametrize(("config", "code"), [
        ({"labels": ["red"]}, "invalid-config"),
        ({"labels": ["red", "r" * 5000]}, "prompt-too-long"),
        ({"backbone": "another"}, "unknown-backbone"),
    ])  # fmt: skip
    def test_failed(self, floor: Services, config: dict[str, Any], code: str) -> None:
        job = done(floor, files(3), ZERO_SHOT | config)
        assert job.error is not None
        assert (job.status, job.error.type) == (JobStatus.FAILED, code)
        assert left(floor, job.id) == set()


class TestTheArchive:
    def test_is_counted_without_litter(self, floor: Services) -> None:
        part = write_zip(floor.store.part(), files(3) | {"notes.txt": b"x", "__MACOSX/x.png": b"y"})
        assert count_files(part, floor.datasets.limits()) == 4

    @pytest.mark.parametrize(("entries", "told"), [
        ({}, "holds no file"),
        ({"folder/": b""}, "holds no file"),
        ({"__MACOSX/a.png": b"x"}, "holds no file"),
        ({"a.txt": b"x", "b.csv": b"1,2"}, "2 files, none of which"),
        ({"inner.zip": b"PK\x03\x04"}, "1 files, none of which"),
    ])  # fmt: skip
    def test_without_a_picture_is_refused(self, floor: Services, entries: dict[str, bytes], told: str) -> None:
        part = write_zip(floor.store.part(), entries)
        with pytest.raises(ArchiveError, match=told):
            count_files(part, floor.datasets.limits())

    def test_that_is_hostile_is_refused(self, floor: Services) -> None:
        part = write_zip(floor.store.part(), files(2) | {"../x.png": b"x"})
        with pytest.raises(ArchiveError) as caught:
            count_files(part, floor.datasets.limits())
        assert [fault.path for fault in caught.value.faults] == ["../x.png"]


def test_a_model_is_kept_while_a_job_needs_it(floor: Services, towers: tuple[str, str]) -> None:
    model = store_model(floor, towers[0])
    job_id = start(floor, files(2), {"models": [model]})
    with pytest.raises(ConflictError, match=job_id):
        floor.catalogue.delete(model)
    runner(floor).run_next()
    floor.catalogue.delete(model)
    assert len(rows(floor, job_id)) == 2
    part = write_zip(floor.store.part(), files(2))
    with pytest.raises(NotFoundError, match=model):
        floor.start_job("predict", {"models": [model]}, archive=part)
    assert part.exists()
