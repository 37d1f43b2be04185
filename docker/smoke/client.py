"""HTTP from outside, with the standard library alone: what anybody's own program would send."""

from __future__ import annotations

import http.client
import json
import secrets
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outcome import SmokeError, expect, wait_for

ENDED = ("succeeded", "failed", "cancelled")
TIMEOUT_S = 120
File = tuple[str, str, bytes, str]
"""Field, name, content, media type."""


@dataclass(frozen=True)
class Answer:
    """Status and body of an answer."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def ok(self) -> Any:
        """The JSON of a good answer.

        Raises:
            SmokeError: It is none, with the server's words.
        """
        expect(self.status < 400, f"the server answered {self.status}: {self.body[:500].decode(errors='replace')}")
        return self.json


@dataclass
class Client:
    """One server, and the key to it.

    Attributes:
        url: Where it is.
        key: None: without one.
        within_s: How long anything may take.
    """

    url: str
    key: str | None
    within_s: float

    def open(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request on a connection of its own, and give the answer to be read.

        Raises:
            OSError: Nobody answers, or in no HTTP.
        """
        host = urllib.parse.urlsplit(self.url).netloc
        connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
        sent = dict(headers or {}) | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            connection.request(method, path, body, sent)
            return connection, connection.getresponse()
        except http.client.HTTPException as error:
            connection.close()
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        except OSError:
            connection.close()
            raise

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """A request and its whole answer."""
        connection, response = self.open(method, path, body, headers)
        try:
            return Answer(response.status, response.read())
        except http.client.HTTPException as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        return self.call("GET", path).ok()

    def form(self, path: str, fields: Mapping[str, str], files: Sequence[File] = ()) -> Any:
        """POST a form, as `curl -F` does."""
        mark = secrets.token_hex(16)
        parts = [
            f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()
        ]
        for name, filename, content, kind in files:
            head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            parts.append(f"{head}Content-Type: {kind}\r\n\r\n".encode() + content + b"\r\n")
        body = b"".join(parts) + f"--{mark}--\r\n".encode()
        return self.call("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={mark}"}).ok()

    def is_ready(self) -> bool:
        return self.call("GET", "/readyz").status == 200

    def events(self, job_id: str) -> Iterator[tuple[str, Any]]:
        """The events of a job from its beginning to its end, as they come."""
        headers = {"Last-Event-ID": "0-0", "Accept": "text/event-stream"}
        connection, response = self.open("GET", f"/jobs/{job_id}/events", headers=headers)
        try:
            expect(response.status == 200, f"the events answered {response.status}")
            event, data = "message", ""
            for line in response:
                name, _, value = line.decode().rstrip("\r\n").partition(":")
                if name == "event":
                    event = value.strip()
                elif name == "data":
                    data += value.strip()
                elif not name and not value and data:
                    yield event, json.loads(data)
                    event, data = "message", ""
        finally:
            connection.close()

    # -- jobs

    def tune(self, archive: bytes, name: str, **config: Any) -> str:
        """Send a zip to be tuned on; the id of the job."""
        fields = {"name": name, "config": json.dumps(config)}
        return str(self.form("/tune", fields, [("dataset", f"{name}.zip", archive, "application/zip")])["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Its record.

        Raises:
            OSError: The server is away, or says that it is not ready.
        """
        answer = self.call("GET", f"/jobs/{job_id}")
        if answer.status >= 500:
            raise ConnectionError(f"it answered {answer.status}")
        record: dict[str, Any] = answer.ok()
        if record["status"] in ("failed", "cancelled"):
            raise SmokeError(f"job {job_id} {record['status']}: {json.dumps(record['error'])[:500]}")
        return record

    def step_of(self, job_id: str) -> int:
        """The step that a running job is at; 0 where it does not run."""
        record = self.job(job_id)
        expect(record["status"] != "succeeded", f"job {job_id} ended before it could be disturbed; make it longer")
        return int((record["progress"] or {}).get("step") or 0) if record["status"] == "running" else 0

    def wait_for_step(self, job_id: str, attempt: int, beyond: int = 0) -> int:
        """Wait until that attempt at a job, or a later one, is beyond a step; the step it is at then."""
        found = [0]

        def there() -> bool:
            found[0] = self.step_of(job_id)
            return found[0] > beyond and int(self.job(job_id)["attempts"]) >= attempt

        wait_for(f"attempt {attempt} at job {job_id} beyond step {beyond}", there, self.within_s)
        return found[0]

    def wait_for_end(self, job_id: str) -> dict[str, Any]:
        """Its record once it has succeeded."""
        wait_for(f"job {job_id} succeeds", lambda: self.job(job_id)["status"] == "succeeded", self.within_s)
        return self.job(job_id)

    # -- answers

    def predict(self, pictures: Sequence[tuple[str, bytes]], **fields: str) -> list[dict[str, Any]]:
        """The best class of each picture, with its probability."""
        found: list[dict[str, Any]] = []
        for at in range(0, len(pictures), 64):
            files = [("images", name, data, "image/png") for name, data in pictures[at : at + 64]]
            found += [one["top"][0] for one in self.form("/predict", {"top_k": "1"} | fields, files)["predictions"]]
        return found

    def download(self, path: str) -> bytes:
        """A file that may still be in the making (503)."""
        deadline = time.monotonic() + self.within_s
        while (answer := self.call("GET", path)).status == 503 and time.monotonic() < deadline:
            time.sleep(1)
        expect(answer.status == 200, f"{path} answered {answer.status}: {answer.body[:300]!r}")
        return answer.body
