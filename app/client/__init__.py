"""A thin client of the HTTP API: needs httpx and nothing else of this project's dependencies.

    from app.client import Client

    with Client("http://127.0.0.1:8000") as client:
        model = client.tune("pictures/", name="pets").wait().model_id
        for answer in client.predict("cat.png", model=model):
            print(answer.best.label, answer.best.probability)

`AsyncClient` has the same methods to await. A folder is accepted wherever a zip is.
"""

from app.client.aio import AsyncClient, AsyncJob
from app.client.errors import ApiError, ClientError, JobFailedError, ServerUnreachableError
from app.client.sync import Client, Job
from app.client.types import Candidate, Dataset, Event, JobState, Model, Page, Prediction

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "Candidate",
    "Client",
    "ClientError",
    "Dataset",
    "Event",
    "Job",
    "JobFailedError",
    "JobState",
    "Model",
    "Page",
    "Prediction",
    "ServerUnreachableError",
]
