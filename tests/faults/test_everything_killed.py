"""kill -9 of everything at once, again and again, at any moment of its work: the state is consistent each time."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest

from tests.faults.record import CHAOS, times
from tests.faults.stack import CONFIG, Stack, eventually, pictures

pytestmark = pytest.mark.timeout(3600 if CHAOS else 900)

ROUNDS = times(10, 50)


@dataclass
class Promised:
    """What the API has said yes to."""

    jobs: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)


class User(threading.Thread):
    """Somebody who tunes, uploads, cancels, predicts and reads, in any order, until the line breaks."""

    def __init__(self, url: str, seed: int, model: str, promised: Promised) -> None:
        super().__init__(daemon=True)
        self.random, self.url, self.model, self.promised = random.Random(seed), url, model, promised
        self.tunings_left, self.uploads_left = 3, 5
        self.began = threading.Event()
        self.wrong: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client, contextlib.suppress(httpx.TransportError):
            while True:
                self.random.choice([self.tune, self.upload, self.upload, self.cancel, self.read])(client)
                self.began.set()

    def tune(self, client: httpx.Client) -> None:
        if not self.tunings_left:
            return
        self.tunings_left -= 1
        seed = self.random.randrange(10_000)
        body = {"config": f'{{"epochs": 2, "views": 1, "seed": {CONFIG["seed"]}}}'}
        files = {"dataset": ("p.zip", pictures(200_000 + seed, 3), "application/zip")}
        answer = client.post("/tune", files=files, data=body)
        if answer.status_code == 202:
            self.promised.jobs.add(answer.json()["id"])
        else:
            self.refused(answer)

    def upload(self, client: httpx.Client) -> None:
        if not self.uploads_left:
            return
        self.uploads_left -= 1
        body = pictures(300_000 + self.random.randrange(10_000), 5)
        answer = client.post("/datasets", content=body, headers={"Content-Type": "application/zip"})
        if answer.status_code in (200, 201):
            self.promised.datasets.add(answer.json()["id"])
        else:
            self.refused(answer)

    def cancel(self, client: httpx.Client) -> None:
        if not self.promised.jobs:
            return
        job_id = self.random.choice(sorted(self.promised.jobs))
        answer = client.post(f"/jobs/{job_id}/cancel")
        if answer.status_code == 202:
            self.promised.cancelled.add(job_id)
        elif answer.status_code != 409:
            self.refused(answer)

    def read(self, client: httpx.Client) -> None:
        for path in ("/jobs", "/models", "/datasets", f"/models/{self.model}"):
            answer = client.get(path)
            if answer.status_code != 200:
                self.refused(answer)

    def refused(self, answer: httpx.Response) -> None:
        if answer.status_code != 503:
            self.wrong.append(answer.text)


def test_killed_at_any_moment_it_is_consistent_when_it_is_back(stack: Stack, tried: Callable[..., None]) -> None:
    model = stack.reference()[0]["model_id"]
    chance, promised, slowest = random.Random(5), Promised(), 0.0
    for number in range(ROUNDS):
        user = User(stack.url, number, model, promised)
        user.start()
        assert user.began.wait(120)
        user.join(chance.uniform(0, 5))  # any moment will do
        stack.kill_everything(wipe=number % 3 == 2)  # a power cut; sometimes one after which Redis is empty
        user.join(120)
        assert not user.wrong, user.wrong
        assert stack.damage() == []
        stack.boot = f"boot-{number}"
        slowest = max(slowest, eventually("everything to be back", lambda: started(stack)))
        for kind, ids in (("jobs", promised.jobs), ("datasets", promised.datasets)):
            for one in ids:
                assert stack.client.get(f"/{kind}/{one}").status_code == 200, (number, kind, one)
    ended = {job_id: stack.ended(job_id, 600) for job_id in sorted(promised.jobs)}
    for job_id, job in ended.items():
        allowed = {"succeeded", "cancelled"} if job_id in promised.cancelled else {"succeeded"}
        assert job["status"] in allowed, job
    stack.check(ended)
    made = [one.job_id for one in stack.services.models.list(limit=1000).items]
    assert len(made) == len(set(made)), "two models of one job"
    stack.services.retention.sweep()  # what the dead have left behind goes, and takes nothing along
    stack.check(ended)
    assert promised.datasets <= {one.id for one in stack.services.datasets.list(limit=1000).items}
    outcome = f"consistent; {len(ended)} jobs ended once, {len(promised.datasets)} data sets kept"
    tried(5, "everything killed -9 at once, at any moment", outcome, slowest, tried=ROUNDS)


def started(stack: Stack) -> bool:
    stack.start(ready=False)
    return True
