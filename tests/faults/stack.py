"""API, worker and Redis as processes of their own, which a test can hold, kill and start again one by one.

The embedded service supervises the same three; here nobody starts what was killed but the test, so that it can look at
the time between. What the supervisor does about a death is tested in tests/worker/test_supervise.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.faults.part import Part
from tests.support.api import coloured_zip, png
from tests.support.faulty import BOOT
from tests.support.gates import Gates
from tests.support.redis_server import RedisServer
from tests.support.service import TERMINAL, wait_for
from worker.identity import post, process_name
from worker.integrity import Damage, Integrity
from worker.service import Services, open_services
from worker.settings import WorkerSettings

COLOURS = ("red", "green", "blue", "yellow")
CONFIG: Mapping[str, Any] = {"epochs": 6, "views": 2, "batch_size": 8, "seed": 7}
"""A tuning of about a second, in two stages, with three batches of images to encode."""
PHASES = ("unpacking", "encoding", "tuning", "evaluating", "auditing", "saving", "saved")
MOMENTS = {"saved": "with everything saved", "before end.json": "about to commit"}
"""What gates that are no phases are called in the table."""
AFTER = {"encoding": 32, "tuning": 10}
"""So much of a phase is done when its gate holds: a batch of images, an epoch and a half."""
NOBODY_S = 600.0
"""A lease that does not run out in a test: whoever takes the job over did not wait for that."""


def moment(gate: str) -> str:
    """When that gate is, in words."""
    return MOMENTS.get(gate, f"while {gate}")


def reserved_port() -> tuple[socket.socket, int]:
    """A port that stays ours while nobody listens on it: bound by a socket that lets a listener bind it, too.

    A port that is merely free may be given to somebody's outgoing connection while the API is dead, and then the API
    cannot come back.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved, int(reserved.getsockname()[1])


def pictures(first_seed: int = 0, per_class: int = 10, *, padding: int = 0) -> bytes:
    """A zip of coloured noise; another seed gives other pictures. The padding is bytes that no data set wants."""
    out = io.BytesIO(coloured_zip(per_class, first_seed, COLOURS))
    if padding:
        with zipfile.ZipFile(out, "a") as file:
            file.writestr("__MACOSX/padding", os.urandom(padding))
    return out.getvalue()


class Stack:
    """The three parts on one data folder, and a client of the API.

    Attributes:
        boot: What the parts take for the machine's boot; another name is another power cut. Empty: the real one.
        services: The worker floor as this process sees it, to look at files and leases.
    """

    def __init__(self, folder: Path, *, data: Path | None = None, **settings: str) -> None:
        self.folder, self.data = folder, data or folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        self.redis = RedisServer(aof=True)
        self._reserved, self.port = reserved_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)
        self.api: Part | None = None
        self.workers: dict[str, Part] = {}
        self.boot = ""
        self.extra = settings
        self._reference: tuple[dict[str, Any], str] | None = None
        own = WorkerSettings(data_dir=self.data, redis_url=self.redis.url, min_free_bytes=0, node="test")
        self.services: Services = open_services(own)

    def listed(self, path: str) -> set[str]:
        """Ids of everything that the API lists there, page by page: long runs leave more than one."""
        found, cursor = set[str](), None
        while True:
            asked = {"limit": 20} | ({"cursor": cursor} if cursor else {})
            answer = self.client.get(path, params=asked)
            assert answer.status_code == 200, answer.text
            page: dict[str, Any] = answer.json()
            found |= {item["id"] for item in page["items"]}
            if not (cursor := page["next_cursor"]):
                return found

    # -- parts

    def gates(self, name: str = "here") -> Gates:
        """Those of the worker of that node, or of the API for `api`."""
        return Gates(self.folder / "gates" / name)

    def environment(self, **settings: str) -> dict[str, str]:
        told = {
            "NPT_DATA_DIR": str(self.data),
            "NPT_REDIS_URL": self.redis.url,
            "NPT_LEASE_TTL_S": "3",
            "NPT_REAP_EVERY_S": "1",
            "NPT_WATCH_EVERY_S": "0.2",
            "NPT_STOP_GRACE_S": "10",
            "NPT_MIN_FREE_BYTES": "0",
            "NPT_LOG_JSON": "true",
            "NPT_NODE": "here",
            "OMP_NUM_THREADS": "1",
        }
        return told | self.extra | settings | ({BOOT: self.boot} if self.boot else {})

    def start_worker(self, node: str = "here", *, wait: bool = True, lease_ttl_s: float = 3.0) -> Part:
        """Start a worker of that node and wait until Redis has seen it."""
        told = self.environment(NPT_NODE=node, NPT_LEASE_TTL_S=str(lease_ttl_s))
        part = Part("tests.support.faulty_worker", self.folder / f"worker-{node}.log", told, self.gates(node))
        self.workers[node] = part
        if wait:
            self.wait_worker(node)
        return part

    def wait_worker(self, node: str = "here") -> float:
        """Wait until that worker is at its place; when that was."""
        part = self.workers[node]

        def seen() -> bool:
            assert part.is_running, f"the worker ended:\n{part.text()[-3000:]}"
            name = process_name(part.process.pid)
            return self.services.redis.zscore(self.services.keys.workers, post(node, name)) is not None

        wait_for(f"the worker of {node}, log {part.log}", seen, 120, 0.02)
        return time.monotonic()

    def only_worker(self, node: str = "here", *, lease_ttl_s: float = 3.0) -> Part:
        """Have one worker, of that node and with such a lease."""
        for other in [name for name in self.workers if name != node]:
            self.kill_worker(other)
        part = self.workers.get(node)
        if part is not None and part.is_running and part.environment["NPT_LEASE_TTL_S"] == str(lease_ttl_s):
            return part
        if part is not None:
            self.kill_worker(node)
        return self.start_worker(node, lease_ttl_s=lease_ttl_s)

    def kill_worker(self, node: str = "here") -> None:
        self.workers.pop(node).kill()

    def start_api(self, *, ready: bool = True) -> Part:
        """Start the API and wait until it answers, with its backbone loaded if it is to be ready."""
        told = self.environment(NPT_ROLE="api", NPT_PORT=str(self.port))
        self.api = part = Part("tests.support.faulty_api", self.folder / "api.log", told, self.gates("api"))
        self.wait_api(ready=ready)
        return part

    def wait_api(self, *, ready: bool = True) -> None:
        part = self.api

        def answers() -> bool:
            assert part is not None
            assert part.is_running, f"the API ended:\n{part.text()[-3000:]}"
            with contextlib.suppress(httpx.TransportError):
                return self.client.get("/readyz" if ready else "/livez").status_code == 200
            return False

        wait_for("the API to answer", answers, 120)

    def kill_api(self) -> None:
        assert self.api
        self.api.kill()
        self.api = None

    def start(self, *, ready: bool = True) -> None:
        """Everything that is not running, as one would start it after a power cut."""
        if self.redis.process is None:
            self.redis.start()
        if "here" not in self.workers:
            self.start_worker(wait=False)
        if self.api is None:
            self.start_api(ready=False)
        self.wait_worker()
        if ready:
            self.wait_api()

    def kill_everything(self, *, wipe: bool = False) -> None:
        """SIGKILL to every process; `wipe` loses what Redis had written too."""
        for part in [self.api, *self.workers.values()]:
            if part is not None:
                part.send(signal.SIGKILL)
        self.redis.kill(wipe=wipe)
        for part in [self.api, *self.workers.values()]:
            if part is not None:
                part.kill()
        self.api, self.workers = None, {}

    def settle(self) -> None:
        """Bring everything back to where a test begins: all parts run, no gate is closed, no job is under way."""
        for folder in (self.folder / "gates").glob("*"):
            Gates(folder).open_all()
        if self.boot or (self.api is not None and not self.api.is_running):
            self.kill_everything()
            self.boot = ""
        for node in [name for name, part in self.workers.items() if name != "here" or not part.is_running]:
            self.kill_worker(node)
        self.start()
        for job_id in self.services.jobs.unfinished():
            with contextlib.suppress(httpx.HTTPError):
                self.client.post(f"/jobs/{job_id}/cancel")
            self.ended(job_id)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.services.close()
        self.kill_everything()
        self.redis.stop()
        self.client.close()
        self._reserved.close()

    # -- work

    def ask_to_tune(self, config: Mapping[str, Any] = CONFIG, *, name: str = "", seed: int = 0) -> httpx.Response:
        """Post a tuning; the answer."""
        return self.client.post(
            "/tune",
            files={"dataset": ("pictures.zip", pictures(seed), "application/zip")},
            data={"config": json.dumps(dict(config))} | ({"name": name} if name else {}),
        )

    def tune(self, config: Mapping[str, Any] = CONFIG, *, name: str = "", seed: int = 0) -> str:
        """Post a tuning; its job's id."""
        answer = self.ask_to_tune(config, name=name, seed=seed)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, job_id: str, timeout_s: float = 180.0) -> dict[str, Any]:
        """The job once its end stands in its folder."""
        files = self.services.jobs.files
        wait_for(f"the end of {job_id}; logs: {self.folder}", lambda: files.ended(job_id), timeout_s, 0.02)
        wait_for("the API to say so", lambda: (found := self.job(job_id))["status"] in TERMINAL and found, 60)
        return self.job(job_id)

    def wait_attempt(self, job_id: str, fence: int, timeout_s: float = 120.0) -> float:
        """Wait until an attempt of at least that number is under way, or the job has ended; when that was."""
        files = self.services.jobs.files

        def begun() -> bool:
            return files.ended(job_id) or max(files.fences(job_id), default=0) >= fence

        wait_for(f"attempt {fence} of {job_id}; logs: {self.folder}", begun, timeout_s, 0.01)
        return time.monotonic()

    def fences(self, job_id: str) -> list[int]:
        return self.services.jobs.files.fences(job_id)

    def forget_work(self) -> None:
        """Have the next tuning do all its work: encode its images, and look at its data set."""
        for path in [*self.data.glob("features/features.sqlite3*"), *self.data.glob("datasets/*/audit.json")]:
            path.unlink()

    def reference(self) -> tuple[dict[str, Any], str]:
        """A tuning that nobody disturbed: its job, and the hash of what was learned."""
        if self._reference is None:
            job = self.ended(self.tune(name="undisturbed"))
            assert job["status"] == "succeeded", job
            assert job["attempts"] == 1, job
            self._reference = job, self.learned(job)
        return self._reference

    def learned(self, job: Mapping[str, Any]) -> str:
        """SHA-256 of the tensors of the model that a job made."""
        return self.services.models.get(job["model_id"]).files["classifier.safetensors"].sha256

    def predict(self, model: str, count: int = 1, *, client: httpx.Client | None = None) -> httpx.Response:
        """Ask for so many pictures; with a client of the caller's own from a thread."""
        files = [("images", (f"{n}.png", png(COLOURS[n % 4], n), "image/png")) for n in range(count)]
        return (client or self.client).post("/predict", files=files, data={"model": model})

    # -- what must always hold

    def models_of(self, job_id: str) -> list[str]:
        page = self.services.models.list(limit=1000)
        return [model.id for model in page.items if model.job_id == job_id]

    def damage(self) -> list[Damage]:
        """Whatever `npt verify` would find in the store."""
        integrity = Integrity(self.services.store)
        return [damage for thing in integrity.things() for damage in integrity.look(*thing).damage]

    def check(self, jobs: Iterable[str] = ()) -> None:
        """The store is whole; each of these jobs has one end, and one model exactly where it succeeded."""
        assert self.damage() == []
        for job_id in jobs:
            end = self.services.jobs.files.end(job_id)
            assert end is not None, job_id
            ends = [path.name for path in self.services.store.path(f"jobs/{job_id}").glob("end*")]
            assert ends == ["end.json"]
            made = [end.model_id] if end.model_id else []
            assert self.models_of(job_id) == made, (job_id, end)


def eventually(what: str, probe: Callable[[], Any], timeout_s: float = 120.0) -> float:
    """Seconds until `probe` says something true."""
    began = time.monotonic()
    wait_for(what, probe, timeout_s, 0.02)
    return time.monotonic() - began
