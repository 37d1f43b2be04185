"""Every call of the API as a value: what to send, and how to read the answer. Knows no connection."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from app.client import payload
from app.client.errors import ApiError
from app.client.payload import Image, Pictures
from app.client.types import Dataset, JobState, Model, Page, Prediction, Raw, labels_text, predictions

T = TypeVar("T")
Files = AbstractContextManager[Any]

RETRIED = frozenset({"GET", "PUT", "DELETE"})
TRIES = 5
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
WORTH_WAITING_S = 120.0
"""A server that asks to come again later than that is not waited for: a day's quota is not over in a minute."""
LONGEST_WAIT_S = 1800.0
"""For a file that the server has yet to make."""
_ID = re.compile(r"[\w.-]{1,100}")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        files: Opened anew for each try; gives what httpx takes as `files`.
        again: It may be sent again where nobody knows whether it arrived.
    """

    method: str
    path: str
    read: Any  # (httpx.Response) -> T
    params: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    body: Any = None
    files: Any = None  # () -> Files
    headers: Mapping[str, str] = field(default_factory=dict)
    again: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again."""
        return self.again or self.method in RETRIED

    def open(self) -> Files:
        """The files to send."""
        return self.files() if self.files is not None else nullcontext(None)

    def arguments(self, files: Any) -> dict[str, Any]:
        """What httpx takes."""
        made: dict[str, Any] = {"params": {k: v for k, v in self.params.items() if v is not None}}
        made["headers"] = dict(self.headers)
        if self.body is not None:
            made["json"] = self.body
        if self.data is not None:
            made["data"] = {key: value for key, value in self.data.items() if value is not None}
        if files is not None:
            made["files"] = files
        return made


def pause(tried: int, answer: httpx.Response | None) -> float:
    """Seconds before the next try: what the server asks for, or twice as long each time."""
    asked = _retry_after(answer) if answer is not None else None
    return min(LONGEST_PAUSE_S, asked if asked is not None else PAUSE_S * 2**tried)


def busy(answer: httpx.Response) -> bool:
    """The server asks to come again: it is full, or still at work on the same request, whose line broke (409)."""
    asked = _retry_after(answer)
    return answer.status_code in (409, 429, 503) and asked is not None and asked <= WORTH_WAITING_S


def _retry_after(answer: httpx.Response) -> float | None:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def gone(call: Call[Any], tried: int, answer: httpx.Response) -> bool:
    """Nothing is there any more for a DELETE that was sent before: the lost answer was a success."""
    return call.method == "DELETE" and tried > 0 and answer.status_code == 404


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer itself, where it is no problem.

    Raises:
        ApiError: The server answered with one.
    """
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    raise ApiError(
        answer.status_code,
        str(problem.get("code", "unknown")),
        str(problem.get("detail") or f"The server answered {answer.status_code} {answer.reason_phrase}."),
        problem.get("errors") or (),
        answer.headers.get("x-request-id"),
        _retry_after(answer),
    )


def _id(text: str) -> str:
    """An id or alias as a part of a path: what is none must not become another path."""
    if not _ID.fullmatch(text) or set(text) == {"."}:
        raise ValueError(f"{text!r} is no id; ids and aliases have letters, digits, '_', '-' and '.' only")
    return text


def _json(answer: httpx.Response) -> Any:
    return answer.json()


def _job(answer: httpx.Response) -> JobState:
    return JobState.of(answer.json())


def _nothing(answer: httpx.Response) -> None:
    return None


def _page(kind: Any) -> Any:
    def read(answer: httpx.Response) -> Page[Any]:
        raw = answer.json()
        return Page([kind(one) for one in raw["items"]], raw.get("next_cursor"))

    return read


def _form(pictures: Pictures | None, field_name: str) -> Any:
    """What opens a zip as the file of a form, for one try; None where there is none to send."""
    if pictures is None:
        return None

    @contextmanager
    def opened() -> Iterator[dict[str, Any]]:
        with payload.archive(pictures) as file:
            yield {field_name: file}

    return opened


def _either(pictures: Pictures | None, dataset_id: str | None) -> None:
    if (pictures is None) == (dataset_id is None):
        raise ValueError("give either pictures (a folder or a zip) or dataset_id")


def tune(
    pictures: Pictures | None, dataset_id: str | None, config: Mapping[str, Any], name: str | None, key: str
) -> Call[JobState]:
    _either(pictures, dataset_id)
    data = {"config": json.dumps(dict(config)), "name": name, "dataset_id": dataset_id}
    headers = {"Idempotency-Key": key}
    return Call("POST", "/tune", _job, data=data, files=_form(pictures, "dataset"), headers=headers, again=True)


def compare(
    models: Sequence[str], pictures: Pictures | None, dataset_id: str | None, options: Mapping[str, Any], key: str
) -> Call[JobState]:
    _either(pictures, dataset_id)
    data = {"model": list(models), "dataset_id": dataset_id, **options}
    headers = {"Idempotency-Key": key}
    return Call("POST", "/compare", _job, data=data, files=_form(pictures, "dataset"), headers=headers, again=True)


def comparison(job_id: str) -> Call[Raw]:
    return Call("GET", f"/jobs/{_id(job_id)}/comparison", _json)


def _question(model: str | Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a prediction: lists and mappings as JSON, what is None left out."""
    data: dict[str, Any] = {"model": [model] if isinstance(model, str) else list(model)}
    for name, value in options.items():
        if name == "labels" and value is not None:
            data[name] = json.dumps(labels_text(value))
        elif isinstance(value, Mapping):
            data[name] = json.dumps(dict(value))
        elif value is not None:
            data[name] = value
    return data


def predict(
    images: Image | Sequence[Image], model: str | Sequence[str], options: Mapping[str, Any]
) -> Call[list[Prediction]]:
    return Call(
        "POST",
        "/predict",
        lambda answer: predictions(answer.json()),
        data=_question(model, options),
        files=lambda: payload.images(images),
        again=True,  # it changes nothing
    )


def predict_batch(
    pictures: Pictures, model: str | Sequence[str], options: Mapping[str, Any], key: str
) -> Call[JobState]:
    headers = {"Idempotency-Key": key}
    data = _question(model, options)
    return Call("POST", "/predict/batch", _job, data=data, files=_form(pictures, "file"), headers=headers, again=True)


def add_dataset(pictures: Pictures, audit: bool) -> Call[Dataset]:
    return Call(
        "POST",
        "/datasets",
        lambda answer: Dataset.of(answer.json()),
        params={"audit": "true" if audit else "false"},
        files=_form(pictures, "file"),
        again=True,  # the same pictures are one data set
    )


def dataset(dataset_id: str) -> Call[Dataset]:
    return Call("GET", f"/datasets/{_id(dataset_id)}", lambda answer: Dataset.of(answer.json()))


def datasets(limit: int, cursor: str | None) -> Call[Page[Dataset]]:
    return Call("GET", "/datasets", _page(Dataset.of), params={"limit": limit, "cursor": cursor})


def delete_dataset(dataset_id: str) -> Call[None]:
    return Call("DELETE", f"/datasets/{_id(dataset_id)}", _nothing)


def job(job_id: str) -> Call[JobState]:
    return Call("GET", f"/jobs/{_id(job_id)}", _job)


def jobs(status: str | None, limit: int, cursor: str | None) -> Call[Page[JobState]]:
    return Call("GET", "/jobs", _page(JobState.of), params={"status": status, "limit": limit, "cursor": cursor})


def cancel(job_id: str) -> Call[JobState]:
    return Call("POST", f"/jobs/{_id(job_id)}/cancel", _job)


def model(model_id: str) -> Call[Model]:
    return Call("GET", f"/models/{_id(model_id)}", lambda answer: Model.of(answer.json()))


def models(name: str | None, limit: int, cursor: str | None) -> Call[Page[Model]]:
    return Call("GET", "/models", _page(Model.of), params={"name": name, "limit": limit, "cursor": cursor})


def delete_model(model_id: str) -> Call[None]:
    return Call("DELETE", f"/models/{_id(model_id)}", _nothing)


def report(model_id: str) -> Call[Raw]:
    return Call("GET", f"/models/{_id(model_id)}/report", _json, headers={"Accept": "application/json"})


def import_model(file: Pictures, name: str | None) -> Call[Model]:
    return Call(
        "POST",
        "/models/import",
        lambda answer: Model.of(answer.json()),
        data={"name": name},
        files=_form(file, "file"),
        again=True,  # the same file is one model
    )


def aliases(cursor: str | None) -> Call[Page[tuple[str, str]]]:
    return Call(
        "GET", "/aliases", _page(lambda one: (one["alias"], one["model"])), params={"limit": 100, "cursor": cursor}
    )


def set_alias(alias: str, model_id: str) -> Call[Raw]:
    return Call("PUT", f"/aliases/{_id(alias)}", _json, body={"model": model_id})


def delete_alias(alias: str) -> Call[None]:
    return Call("DELETE", f"/aliases/{_id(alias)}", _nothing)


def backbones() -> Call[list[Raw]]:
    return Call("GET", "/backbones", lambda answer: answer.json()["backbones"])


def methods() -> Call[Raw]:
    return Call("GET", "/methods", _json)
