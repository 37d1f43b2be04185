"""kill -9 of the API while it takes a data set in and while it predicts: no half data set, no half answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from npt_core.data.dataset import Dataset
from tests.faults.record import times
from tests.faults.stack import Stack, eventually, pictures
from worker.service import Services

pytestmark = pytest.mark.timeout(900)

MOMENTS = ("the body is half sent", "before dataset.json", "after dataset.json")


class Upload:
    """A raw upload in a thread; with `half` it stops in the middle of the body, and the rest never comes."""

    def __init__(self, url: str, body: bytes, *, half: bool) -> None:
        self.url, self.body, self.half = url, body, half
        self.half_sent = threading.Event()
        self.given_up = threading.Event()
        self.answer: httpx.Response | None = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._send, daemon=True)
        self.thread.start()

    def _parts(self) -> Iterator[bytes]:
        middle = len(self.body) // 2
        yield self.body[:middle]
        if self.half:
            self.half_sent.set()
            self.given_up.wait(120)
        yield self.body[middle:]

    def _send(self) -> None:
        headers = {"Content-Type": "application/zip"}
        try:
            self.answer = httpx.post(f"{self.url}/datasets", content=self._parts(), headers=headers, timeout=120)
        except httpx.TransportError as error:
            self.error = error


def datasets(services: Services) -> set[str]:
    return {record.id for record in services.datasets.list(limit=1000).items}


@pytest.mark.parametrize("again", range(times(1, 5)))
@pytest.mark.parametrize("moment", MOMENTS)
def test_no_half_data_set_is_ever_visible(stack: Stack, tried: Callable[..., None], moment: str, again: int) -> None:
    seed = 100_000 + 10_000 * MOMENTS.index(moment) + 100 * again
    body = pictures(seed, padding=3 << 20)  # so much that the half of it is written to the disk
    before, gates = datasets(stack.services), stack.gates("api")
    half = moment not in ("before dataset.json", "after dataset.json")
    if not half:
        gates.close(moment, "deaf")
    upload = Upload(stack.url, body, half=half)
    if half:
        assert upload.half_sent.wait(60)
        eventually("the first half to arrive", lambda: list((stack.data / "uploads").glob("*")))
    else:
        gates.wait_held(moment)
    stack.kill_api()
    gates.open(moment)
    upload.given_up.set()
    upload.thread.join(60)
    assert upload.answer is None
    assert isinstance(upload.error, httpx.TransportError)  # an error, no half answer
    seconds = eventually("the API to be back", lambda: stack.start_api(ready=False))

    new = stack.listed("/datasets") - before
    assert len(new) == (1 if moment == "after dataset.json" else 0)
    for dataset_id in new:  # it was whole when it was seen
        with stack.services.datasets.open(dataset_id) as dataset:
            readable(dataset)
    assert stack.damage() == []
    answer = stack.client.post("/datasets", content=body, headers={"Content-Type": "application/zip"})
    assert answer.status_code == (200 if new else 201), answer.text
    with stack.services.datasets.open(answer.json()["id"]) as dataset:
        assert len(dataset) == 40
        readable(dataset)
    tried(4, f"API killed -9 in an upload, {moment}", "an error for the client, no half data set", seconds)


def readable(dataset: Dataset) -> None:
    for sample in dataset.samples:
        assert dataset.read(sample)


@pytest.mark.parametrize("again", range(times(1, 5)))
def test_who_asks_gets_a_whole_answer_or_an_error(stack: Stack, tried: Callable[..., None], again: int) -> None:
    model = stack.reference()[0]["model_id"]
    whole, errors, begun = [], [], threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=stack.url, timeout=60) as client:
            while True:
                try:
                    answer = stack.predict(model, 16, client=client)
                except httpx.TransportError as error:
                    errors.append(error)
                    return
                whole.append((answer.status_code, len(answer.json()["predictions"])))
                begun.set()

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(120)
    stack.kill_api()
    for thread in threads:
        thread.join(60)
    assert len(errors) == 4
    assert set(whole) == {(200, 16)}
    seconds = eventually("the API to be back", lambda: stack.start_api())
    assert stack.predict(model).status_code == 200
    tried(4, "API killed -9 while 4 clients predict", "whole answers or an error", seconds)
