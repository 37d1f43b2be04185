"""The client against a real server: both kinds of it, broken lines, busy servers, folders and files."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.client import ApiError, AsyncClient, Client, ClientError, JobFailedError, ServerUnreachableError
from app.client.events import EventLines
from app.client.files import Download
from app.client.payload import archive
from tests.support.api import Api, coloured_zip, png, store_model
from tests.support.in_process import runner
from tests.support.pictures import write_folder

QUICK = {"epochs": 2, "views": 1}


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(api.url) as made:
        yield made


@pytest.fixture
def working(api: Api) -> Iterator[None]:
    """Somebody works on jobs in the background."""
    stop = threading.Event()

    def work() -> None:
        one = runner(api.services)
        while not stop.wait(0.05):
            one.run_next()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join(30)


@pytest.fixture
def model(api: Api) -> str:
    return store_model(api.services, api.settings.backbone_entries[0])


class Flaky(httpx.HTTPTransport):
    """A line that breaks on the first `times` requests, before or after the server has had them."""

    def __init__(self, times: int, *, after: bool = False) -> None:
        super().__init__()
        self.left, self.after, self.sent = times, after, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.left -= 1
        if self.left < 0:
            return super().handle_request(request)
        if self.after:
            request.read()
            super().handle_request(request).read()
        raise httpx.ReadError("the line broke")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.client.calls.PAUSE_S", 0.01)


class TestMainPath:
    def test_from_a_folder_to_predictions(self, api: Api, client: Client, working: None, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "colours", {"red": 4, "green": 4}, first_seed=3100)
        (folder / ".DS_Store").write_bytes(b"litter")
        steps: list[str] = []
        done = client.tune(folder, name="from-a-folder", **QUICK).wait(120, lambda state: steps.append(state.status))
        assert steps[-1] == "succeeded"
        assert done.model_id is not None
        made = client.model(done.model_id)
        assert (made.name, made.labels, made.version) == ("from-a-folder", ("green", "red"), 1)
        assert [one.id for one in client.models(name="from-a-folder")] == [made.id]
        (folder / "one.png").write_bytes(png("red", 3200))
        answers = client.predict([folder / "one.png", png("green", 3201), b"no image"], model=made.id, top_k=1)
        assert [one.filename for one in answers] == ["one.png", "image-2", "image-3"]
        assert answers[0].best.label in made.labels
        assert len(answers[1].top) == 1
        with pytest.raises(ValueError, match="image-3"):
            _ = answers[2].best
        assert client.report(made.id)["metrics"]
        found = client.dataset(str(done.dataset_id))
        assert (found.images, found.labels) == (8, ("green", "red"))

    def test_awaited(self, api: Api, working: None, tmp_path: Path) -> None:
        async def run() -> str:
            async with AsyncClient(api.url) as client:
                job = await client.tune(coloured_zip(4, 3300), name="awaited", **QUICK)
                events = [event async for event in job.events()]
                assert events[-1].event == "end"
                state = await job.wait(60)
                assert state.model_id is not None
                (answer,) = await client.predict(png("red", 3301), model=state.model_id)
                await client.export(state.model_id, tmp_path / "m.zip")
                with pytest.raises(ApiError):
                    await client.model("model_" + "0" * 26)
                return answer.best.label

        assert asyncio.run(run()) in {"red", "green", "blue"}
        assert zipfile.is_zipfile(tmp_path / "m.zip")

    def test_other_names_several_models_and_priors_of_the_caller(self, client: Client, model: str) -> None:
        names = ["a cat", "a dog"]
        answers = client.predict(png(), model=["zero-shot", model], labels=names)
        assert [one.model for one in answers] == ["zero-shot", model]
        assert {c.label for c in answers[0].top} == set(names)
        with pytest.raises(TypeError, match="not one text"):
            client.predict(png(), model=model, labels="cat")

    def test_aliases_export_and_import(self, api: Api, client: Client, model: str, tmp_path: Path) -> None:
        assert client.set_alias("the-client", model)["previous"] is None
        assert client.aliases()["the-client"] == model
        client.delete_alias("the-client")
        assert "the-client" not in client.aliases()
        path = client.export(model, tmp_path / "model.zip")
        assert [one.name for one in tmp_path.iterdir()] == ["model.zip"]
        known = {one.id for one in client.models(limit=200)}
        assert client.import_model(path).id in known  # a model of this content is there already
        client.delete_model(model)
        with pytest.raises(ApiError, match="no model"):
            client.model(model)

    def test_a_batch(self, client: Client, model: str, working: None, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "many", {"red": 3, "green": 2}, first_seed=3450)
        (folder / "note.txt").write_text("no image")
        job = client.predict_batch(folder, model=model, top_k=1)
        with pytest.raises(ApiError):
            client.results(job.id, tmp_path / "early.jsonl")
        assert not (tmp_path / "early.jsonl").exists()
        job.wait(60)
        rows = [json.loads(line) for line in client.results(job.id, tmp_path / "rows.jsonl").read_text().splitlines()]
        assert [row["filename"] for row in rows if "error" not in row] == [
            *(f"green/{n:03d}.png" for n in range(2)),
            *(f"red/{n:03d}.png" for n in range(3)),
        ]
        assert len(rows) == 6
        assert client.results(job.id, tmp_path / "rows.csv", format="csv").read_text().startswith("filename,model,")

    def test_comparing(self, api: Api, client: Client, model: str, working: None) -> None:
        job = client.compare([model], coloured_zip(3, 3400), among="own")
        assert job.wait(60).metrics["best"]
        assert {one["name"] for one in client.comparison(job.id)["contestants"]} == {model, "zero-shot"}


class TestRefused:
    def test_a_problem_has_all_its_parts(self, client: Client) -> None:
        with pytest.raises(ApiError) as caught:
            client.tune(coloured_zip(3, 3500), epochs=0, metod="coop")
        error = caught.value
        assert (error.status, error.code) == (422, "invalid-config")
        assert {one["path"] for one in error.errors} == {"epochs", "metod"}
        assert error.request_id
        assert str(error).endswith("(invalid-config, HTTP 422)")

    def test_a_job_that_fails_says_why(self, api: Api, client: Client, model: str, working: None) -> None:
        archive = coloured_zip(3, 3600)
        tuned = client.tune(archive, **QUICK).wait(60).model_id
        with pytest.raises(JobFailedError, match="used to tune one of the models") as caught:
            client.compare([str(tuned)], archive).wait(60)
        assert (caught.value.status, caught.value.code) == ("failed", "unusable-dataset")

    def test_a_cancelled_job_is_no_success_and_waiting_has_an_end(self, client: Client) -> None:
        job = client.tune(coloured_zip(3, 3700))
        with pytest.raises(TimeoutError, match="it goes on"):
            job.wait(0.5)
        assert job.cancel().status == "cancelled"
        with pytest.raises(JobFailedError, match="was cancelled"):
            job.wait()

    def test_what_is_not_there_is_named_before_anything_is_sent(self, client: Client, tmp_path: Path) -> None:
        with pytest.raises(ClientError, match="no folder and no file"):
            client.tune(tmp_path / "nothing")
        with pytest.raises(ClientError, match="is empty"):
            client.tune(tmp_path)
        with pytest.raises(ClientError, match="no image file"):
            client.predict(tmp_path / "x.png", model="zero-shot")
        with pytest.raises(ValueError, match="either pictures"):
            client.tune()

    @pytest.mark.parametrize("text", ["../keys", "a/b", "", "..", "x?y", "a b"])
    def test_an_id_never_becomes_another_path(self, client: Client, text: str) -> None:
        with pytest.raises(ValueError, match="is no id"):
            client.delete_model(text)

    def test_nobody_at_the_address(self) -> None:
        with Client("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachableError, match="127.0.0.1:9"):
            client.backbones()


class TestBrokenLines:
    def test_a_call_is_sent_again(self, api: Api) -> None:
        with Client(api.url, transport=Flaky(2)) as client:
            assert client.backbones()[0]["name"] == "tiny"
        with (
            Client(api.url, transport=Flaky(9)) as client,
            pytest.raises(ServerUnreachableError, match="the line broke"),
        ):
            client.methods()

    def test_what_was_deleted_when_the_answer_was_lost_is_deleted(self, api: Api, client: Client, model: str) -> None:
        with Client(api.url, transport=Flaky(1, after=True)) as flaky:
            flaky.delete_model(model)
        with pytest.raises(ApiError) as caught:
            client.delete_model(model)
        assert caught.value.status == 404

    def test_a_tuning_that_arrived_twice_is_one_job(self, api: Api) -> None:
        before = len(list(api.services.jobs.files.ids()))
        with Client(api.url, transport=Flaky(2, after=True)) as client:
            job = client.tune(coloured_zip(3, 3800))
        assert len(list(api.services.jobs.files.ids())) == before + 1
        api.services.cancel_job(job.id)

    def test_a_cancel_is_not_sent_again(self, api: Api, client: Client) -> None:
        job = client.tune(coloured_zip(3, 3900))
        with Client(api.url, transport=Flaky(1)) as flaky, pytest.raises(ServerUnreachableError):
            flaky.cancel(job.id)
        assert job.cancel().status == "cancelled"

    def test_events_go_on_where_the_line_broke(self, api: Api, client: Client) -> None:
        job = client.tune(coloured_zip(3, 4000), **QUICK)
        runner(api.services).run_next()
        whole = [(one.id, one.event) for one in client.events(job.id)]

        class Cut(httpx.HTTPTransport):
            """Ends the answer of each of the first streams after its first event."""

            streams = 0

            def handle_request(self, request: httpx.Request) -> httpx.Response:
                answer = super().handle_request(request)
                Cut.streams += 1
                if Cut.streams > 3:
                    return answer

                class Part(httpx.SyncByteStream):
                    def __iter__(self) -> Iterator[bytes]:
                        text = b""
                        for chunk in answer.iter_raw():
                            text += chunk.replace(b"\r\n", b"\n")
                            head, found, _ = text.partition(b"\n\n")
                            if found:
                                yield head + b"\n\n" + b"event: progress\ndata: {"  # and half of the next
                                raise httpx.ReadError("the line broke")

                    def close(self) -> None:
                        answer.close()

                return httpx.Response(answer.status_code, headers={"content-type": "text/event-stream"}, stream=Part())

        with Client(api.url, transport=Cut()) as broken:
            found = [(one.id, one.event) for one in broken.events(job.id)]
        assert Cut.streams > 3
        assert found[-1] == whole[-1]
        ids = [one for one, _ in found if one]
        assert sorted(set(ids)) == sorted(ids)

    def test_a_busy_server_is_asked_again_when_it_says(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []
        monkeypatch.setattr("app.client.sync.time.sleep", slept.append)

        class Busy(httpx.HTTPTransport):
            left = 2

            def handle_request(self, request: httpx.Request) -> httpx.Response:
                self.left -= 1
                if self.left >= 0:
                    return httpx.Response(503, headers={"Retry-After": "7"}, json={"code": "overloaded", "detail": "x"})
                return super().handle_request(request)

        with Client(api.url, transport=Busy()) as client:
            client.methods()
        assert slept == [7.0, 7.0]

    @pytest.mark.parametrize("after", ["7", "100000"])
    def test_who_is_still_at_work_on_the_same_request_is_waited_for_and_a_day_is_not(
        self, api: Api, monkeypatch: pytest.MonkeyPatch, after: str
    ) -> None:
        slept: list[float] = []
        monkeypatch.setattr("app.client.sync.time.sleep", slept.append)

        class InFlight(httpx.HTTPTransport):
            left = 1

            def handle_request(self, request: httpx.Request) -> httpx.Response:
                self.left -= 1
                if self.left >= 0:
                    answer = {"code": "idempotency-in-flight", "detail": "x"}
                    return httpx.Response(409, headers={"Retry-After": after}, json=answer)
                return super().handle_request(request)

        with Client(api.url, transport=InFlight()) as client:
            if after == "7":
                api.services.cancel_job(client.tune(coloured_zip(3, 4100)).id)
                assert slept == [7.0]
            else:
                with pytest.raises(ApiError, match="idempotency-in-flight"):
                    client.tune(coloured_zip(3, 4100))
                assert slept == []

    def test_a_server_that_stays_full_is_given_up(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("app.client.sync.time.sleep", lambda _: None)
        monkeypatch.setattr("app.client.sync.LONGEST_WAIT_S", 0.05)
        full = httpx.MockTransport(lambda _: httpx.Response(503, headers={"Retry-After": "5"}, json={"code": "full"}))
        with Client("http://server", transport=full) as client, pytest.raises(ApiError, match="full"):
            client.export("model_1", tmp_path / "m.zip")

    def test_a_stream_that_ends_too_early_is_not_asked_for_in_a_tight_loop(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[float] = []
        monkeypatch.setattr("app.client.sync.time.sleep", slept.append)
        texts = iter(["", ": ping\n\n", 'event: end\ndata: {"a": 1}\n\n'])
        proxy = httpx.MockTransport(lambda _: httpx.Response(200, text=next(texts)))
        with Client("http://server", transport=proxy) as client:
            assert [one.event for one in client.events("job_1")] == ["end"]
        assert len(slept) == 2
        assert min(slept) > 0


def test_files_without_a_date_are_zipped(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "undated", {"red": 1}, first_seed=4200)
    os.utime(folder / "red" / "000.png", (0, 0))  # as image builders leave them
    with archive(folder) as (_, file, _), zipfile.ZipFile(file) as made:
        assert made.namelist() == ["red/000.png"]


def test_two_who_fetch_the_same_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "m.zip"
    first, second = (Download("/x", target, {}) for _ in range(2))
    with first.open() as one:
        one.write(b"first")
        with second.open() as two:
            two.write(b"second")
        assert target.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]
    assert target.read_bytes() == b"first"


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_event_lines_of_every_ending(ending: str) -> None:
    text = ending.join(
        [": ping", "", "id: 1", "event: progress", 'data: {"a":', "data: 1}", "", "data:2", "", "event: x", "", ""]
    )
    lines = EventLines()
    found = [event for line in text.splitlines() if (event := lines.feed(line))]
    assert [(one.id, one.event, one.data) for one in found] == [("1", "progress", {"a": 1}), ("1", "message", 2)]


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found: dict[str, Callable[..., Awaitable[Any]]] = dict(inspect.getmembers(kind, inspect.isfunction))
        return {
            name: list(inspect.signature(one).parameters) for name, one in found.items() if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)


def test_the_client_needs_httpx_and_nothing_else_of_the_server() -> None:
    code = (
        "import sys, app.client; "
        "print([m for m in ('torch', 'fastapi', 'pydantic', 'redis', 'celery', 'structlog', 'worker', 'npt_core') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_it_tells_how_much_of_a_zip_was_sent(api: Api, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "colours", {"red": 3, "green": 3}, first_seed=90_000)
    told: list[tuple[int, int]] = []
    with Client(api.url, on_sent=lambda sent, total: told.append((sent, total))) as client:
        found = client.add_dataset(folder, audit=False)
        with archive(folder) as (_, file, _):
            size = file.seek(0, os.SEEK_END)
        assert told[-1] == (size, size)
        assert [sent for sent, _ in told] == sorted(sent for sent, _ in told)
        told.clear()
        client.predict([png("red")], model="zero-shot", labels=["red", "green"])
        assert not told  # pictures to look at are no upload to wait for
    assert found.images == 6

    async def again() -> None:
        async with AsyncClient(api.url, on_sent=lambda sent, total: told.append((sent, total))) as client:
            assert (await client.add_dataset(folder, audit=False)).id == found.id

    asyncio.run(again())
    assert told[-1] == (size, size)


def test_what_is_sent_twice_is_counted_from_its_beginning(api: Api, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "colours", {"red": 3, "green": 3}, first_seed=91_000)
    told: list[tuple[int, int]] = []
    with Client(
        api.url, transport=Flaky(1, after=True), on_sent=lambda sent, total: told.append((sent, total))
    ) as client:
        client.add_dataset(folder, audit=False)
    assert sum(sent == total for sent, total in told) >= 2
    assert told[-1][0] == told[-1][1]
