"""The client for asyncio: the methods of `Client`, to await."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from app.client import calls
from app.client.calls import LONGEST_WAIT_S, TRIES, Call, busy, checked, gone, pause
from app.client.errors import ServerUnreachableError
from app.client.events import EventLines
from app.client.files import Download
from app.client.payload import Image, OnSent, Pictures, counted
from app.client.sync import LONGEST_POLL_S, POLL_S, TIMEOUT, succeeded
from app.client.types import Dataset, Event, JobState, Model, Page, Prediction, Raw

T = TypeVar("T")


class AsyncClient:
    """Speaks to one server. Use it as a context manager, or call `close`.

    Calls that change nothing, or that the server recognises when they come twice (tunings are sent with an
    Idempotency-Key), are sent again where the line broke or the server is busy.

    Args:
        url: The server, for instance http://127.0.0.1:8000.
        key: An API key, where the server wants one.
        timeout: Of httpx.
        transport: Of httpx; for tests and proxies.
        on_sent: Called while a zip is sent with the bytes that are on their way and the bytes in all; from the
            beginning where it has to be sent once more.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
        on_sent: OnSent | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url, self._on_sent = url, on_sent
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    # --- tuning and comparing -----------------------------------------------------------------------------------------

    async def tune(
        self,
        pictures: Pictures | None = None,
        *,
        dataset_id: str | None = None,
        name: str | None = None,
        key: str | None = None,
        **config: Any,
    ) -> AsyncJob:
        """Start tuning.

        Args:
            pictures: A folder with one folder of images for each class, or a zip.
            dataset_id: A stored data set, instead.
            name: What the model shall be called; models of one name are its versions.
            key: Idempotency key; made up where None.
            **config: Settings, see `methods()`: method, regularizer, shots, epochs ...

        Raises:
            ApiError: It is refused; `errors` lists every fault.
        """
        return AsyncJob(self, await self._send(calls.tune(pictures, dataset_id, config, name, key or uuid.uuid4().hex)))

    async def compare(
        self,
        models: Sequence[str],
        pictures: Pictures | None = None,
        *,
        dataset_id: str | None = None,
        key: str | None = None,
        **options: str,
    ) -> AsyncJob:
        """Start a comparison of models, and zero-shot, on labelled images.

        Args:
            models: Ids or aliases.
            pictures: Labelled images that no model was tuned on: a folder or a zip.
            dataset_id: A stored data set, instead.
            key: Idempotency key; made up where None.
            **options: split, among, seen.
        """
        return AsyncJob(
            self, await self._send(calls.compare(models, pictures, dataset_id, options, key or uuid.uuid4().hex))
        )

    async def comparison(self, job_id: str) -> Raw:
        """What a comparison came to."""
        return await self._send(calls.comparison(job_id))

    # --- predicting ---------------------------------------------------------------------------------------------------

    async def predict(
        self, images: Image | Sequence[Image], *, model: str | Sequence[str], **options: Any
    ) -> list[Prediction]:
        """Classify 1 to 64 images.

        Args:
            images: Files or their bytes.
            model: Id or alias, or `zero-shot` with `labels`; several answer one after the other.
            **options: top_k, reject_below, priors (how often each label occurs), labels (a list of names, new ones
                too), backbone.

        Returns:
            One prediction for each image and model, model by model.
        """
        return await self._send(calls.predict(images, model, options))

    async def predict_batch(
        self, pictures: Pictures, *, model: str | Sequence[str], key: str | None = None, **options: Any
    ) -> AsyncJob:
        """Start to classify any number of images: a folder, or a zip; `results` fetches the answers.

        Args:
            pictures: Images in any folders; everything that is no image gets an error in its row.
            model: As for `predict`.
            key: Idempotency key; made up where None.
            **options: As for `predict`.
        """
        return AsyncJob(self, await self._send(calls.predict_batch(pictures, model, options, key or uuid.uuid4().hex)))

    async def results(self, job_id: str, path: str | Path, *, format: str = "jsonl") -> Path:
        """Write the answers of a batch to a file, which appears whole or not at all.

        Args:
            job_id: Of a job that has succeeded.
            path: The file.
            format: jsonl or csv.
        """
        return await self._download(Download(calls.job(job_id).path + "/results", path, {"format": format}))

    # --- data sets ----------------------------------------------------------------------------------------------------

    async def add_dataset(self, pictures: Pictures, *, audit: bool = True) -> Dataset:
        """Store labelled images without tuning; a job looks through them where `audit`."""
        return await self._send(calls.add_dataset(pictures, audit))

    async def dataset(self, dataset_id: str) -> Dataset:
        """Read one data set."""
        return await self._send(calls.dataset(dataset_id))

    async def datasets(self, *, limit: int = 50, cursor: str | None = None) -> Page[Dataset]:
        """List data sets, newest first."""
        return await self._send(calls.datasets(limit, cursor))

    async def delete_dataset(self, dataset_id: str) -> None:
        """Delete a data set that nothing needs."""
        await self._send(calls.delete_dataset(dataset_id))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> AsyncJob:
        """Read one job."""
        return AsyncJob(self, await self._send(calls.job(job_id)))

    async def jobs(self, *, status: str | None = None, limit: int = 50, cursor: str | None = None) -> Page[JobState]:
        """List jobs, newest first."""
        return await self._send(calls.jobs(status, limit, cursor))

    async def cancel(self, job_id: str) -> AsyncJob:
        """Ask a job to stop."""
        return AsyncJob(self, await self._send(calls.cancel(job_id)))

    async def events(self, job_id: str) -> AsyncIterator[Event]:
        """Follow a job until it has ended; a broken line is taken up again where it broke."""
        lines, failures = EventLines(), 0
        while True:
            headers = {"Accept": "text/event-stream"}
            if lines.last_id:
                headers["Last-Event-ID"] = lines.last_id
            try:
                async with self._http.stream("GET", calls.job(job_id).path + "/events", headers=headers) as answer:
                    if not answer.is_success:
                        await answer.aread()
                    async for line in checked(answer).aiter_lines():
                        if event := lines.feed(line):
                            failures = 0
                            yield event
                            if event.event == "end":
                                return
            except httpx.TransportError as error:
                failures += 1
                if failures == TRIES:
                    raise ServerUnreachableError(f"{self.url}: {error}") from error
            await asyncio.sleep(
                pause(failures, None)
            )  # also where a proxy ended the stream: it must not be asked in a tight loop
            lines = EventLines(lines.last_id)  # half an event is forgotten: it comes again

    # --- models -------------------------------------------------------------------------------------------------------

    async def model(self, model_id: str) -> Model:
        """Read one model."""
        return await self._send(calls.model(model_id))

    async def models(self, *, name: str | None = None, limit: int = 50, cursor: str | None = None) -> Page[Model]:
        """List models, newest first; of one name: its versions."""
        return await self._send(calls.models(name, limit, cursor))

    async def delete_model(self, model_id: str) -> None:
        """Delete a model that nothing needs."""
        await self._send(calls.delete_model(model_id))

    async def report(self, model_id: str) -> Raw:
        """Read a model's report."""
        return await self._send(calls.report(model_id))

    async def report_page(self, model_id: str, path: str | Path) -> Path:
        """Write a model's report to a file, as a page with plots that needs nothing from anywhere."""
        return await self._download(Download(calls.model(model_id).path + "/report", path, {"format": "html"}))

    async def export(self, model_id: str, path: str | Path, *, format: str = "zip") -> Path:
        """Write a model to a file that another server, or onnxruntime, takes; the file appears whole or not at all.

        Args:
            model_id: Which.
            path: The file.
            format: zip or onnx; the second is made when it is first asked for, which takes a while.
        """
        return await self._download(Download(calls.model(model_id).path + "/export", path, {"format": format}))

    async def import_model(self, file: str | Path | bytes, *, name: str | None = None) -> Model:
        """Take in a model that another server exported."""
        return await self._send(calls.import_model(file, name))

    async def aliases(self) -> Mapping[str, str]:
        """Every alias and the model it points to."""
        found: dict[str, str] = {}
        cursor: str | None = None
        while True:
            page = await self._send(calls.aliases(cursor))
            found |= dict(page.items)
            if page.next_cursor is None:
                return found
            cursor = page.next_cursor

    async def set_alias(self, alias: str, model_id: str) -> Raw:
        """Point an alias to a model, in one step; the answer's `previous` is the way back."""
        return await self._send(calls.set_alias(alias, model_id))

    async def delete_alias(self, alias: str) -> None:
        """Remove an alias; its model stays."""
        await self._send(calls.delete_alias(alias))

    # --- about --------------------------------------------------------------------------------------------------------

    async def backbones(self) -> list[Raw]:
        """What this server can use."""
        return await self._send(calls.backbones())

    async def methods(self) -> Raw:
        """Methods and regularisers with the JSON Schema of their settings."""
        return await self._send(calls.methods())

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _send(self, call: Call[T]) -> T:
        for tried in range(TRIES):
            last = tried == TRIES - 1 or not call.repeatable
            try:
                with call.open() as files:
                    answer = await self._http.request(
                        call.method, call.path, **call.arguments(counted(files, self._on_sent))
                    )
            except httpx.TransportError as error:
                if last:
                    raise ServerUnreachableError(
                        f"{self.url} does not answer: {error or type(error).__name__}"
                    ) from error
                await asyncio.sleep(pause(tried, None))
                continue
            if last or not busy(answer):
                read: T = call.read(answer if gone(call, tried, answer) else checked(answer))
                return read
            await asyncio.sleep(pause(tried, answer))
        raise AssertionError("unreachable")

    async def _download(self, download: Download) -> Path:
        until = asyncio.get_running_loop().time() + LONGEST_WAIT_S
        while True:
            try:
                async with self._http.stream("GET", download.url, params=download.params) as answer:
                    if answer.is_success:
                        with download.open() as file:
                            async for chunk in answer.aiter_bytes():
                                file.write(chunk)
                        return download.path
                    await answer.aread()
            except httpx.TransportError as error:
                raise ServerUnreachableError(f"{self.url}: {error}") from error
            if not busy(answer) or asyncio.get_running_loop().time() > until:
                checked(answer)
            await asyncio.sleep(pause(0, answer))


class AsyncJob:
    """A job of a server. `state` is how it stood when it was last looked at."""

    def __init__(self, client: AsyncClient, state: JobState) -> None:
        self._client, self.state = client, state

    def __repr__(self) -> str:
        return f"AsyncJob({self.id}, {self.state.kind}, {self.state.status})"

    @property
    def id(self) -> str:
        """Its id."""
        return self.state.id

    @property
    def model_id(self) -> str | None:
        """The model that a succeeded tuning made."""
        return self.state.model_id

    async def refresh(self) -> JobState:
        """Look at it now."""
        self.state = (await self._client.job(self.id)).state
        return self.state

    async def wait(
        self, timeout_s: float | None = None, progress: Callable[[JobState], None] | None = None
    ) -> JobState:
        """Wait for its end.

        Args:
            timeout_s: Longest wait; None: as long as it takes. The job goes on all the same.
            progress: Called with the state each time it was looked at.

        Raises:
            JobFailedError: It failed or was cancelled.
            TimeoutError: It has not ended in time.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        rest = POLL_S
        while True:
            state = await self.refresh()
            if progress is not None:
                progress(state)
            if state.ended:
                return succeeded(state)
            if deadline is not None and loop.time() + rest > deadline:
                raise TimeoutError(f"The job {self.id} is {state.status} after {timeout_s:g} s; it goes on.")
            await asyncio.sleep(rest)
            rest = min(LONGEST_POLL_S, rest * 1.2)

    async def events(self) -> AsyncIterator[Event]:
        """Follow it until it has ended."""
        async for event in self._client.events(self.id):
            yield event

    async def cancel(self) -> JobState:
        """Ask it to stop."""
        self.state = (await self._client.cancel(self.id)).state
        return self.state
