"""What routes use: the resources that the lifespan builds, and small helpers around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from app.access.limits import Limiter
from app.feedback_desk import FeedbackDesk
from app.inference import Inference
from app.memory import Room
from app.metrics import Metrics
from app.onnx_desk import OnnxDesk
from app.settings import AppSettings
from app.uploads import UploadDesk
from worker.service import Services

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """The resources of one running app."""

    settings: AppSettings
    services: Services
    inference: Inference
    onnx: OnnxDesk
    feedback: FeedbackDesk
    uploads: UploadDesk
    limiter: Limiter
    metrics: Metrics
    idempotency: set[str]  # keys of requests that are being received right now
    predict_room: Room  # memory for images of all requests together
    ingest: CapacityLimiter  # threads that look through archives: they must not use up those of quick calls


def context_of(request: Request) -> Context:
    """The context of the app that handles `request`."""
    context: Context = request.app.state.context
    return context


async def _context(request: Request) -> Context:
    """As `context_of`; async, because FastAPI hands every other dependency to a thread, which costs more than this."""
    return context_of(request)


Ctx = Annotated[Context, Depends(_context)]


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call something that blocks, off the event loop."""
    return await to_thread.run_sync(partial(function, *args, **kwargs))


def link(request: Request, path: str) -> str:
    """A path of this API as the client reached it: under /v1 if it came by /v1, under a proxy's prefix if any."""
    root = request.scope.get("root_path", "")
    own = str(request.scope["path"]).removeprefix(root)
    version = "/v1" if own.startswith("/v1/") else ""
    return f"{root}{version}{path}"
