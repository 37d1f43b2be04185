"""The application: settings in, ASGI app out. Everything it owns is built when it starts and closed when it ends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import structlog
from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app import document, observe, pages, problems
from app.access.limits import Limiter
from app.auth import SiteGuard, keyring_of
from app.context import Context, in_thread
from app.feedback_desk import FeedbackDesk
from app.inference import Inference
from app.memory import Room
from app.metrics import Metrics
from app.middleware import Surroundings
from app.onnx_desk import OnnxDesk
from app.routes import ROUTERS
from app.settings import AppSettings, get_app_settings
from app.uploads import UploadDesk
from worker.service import Services, open_services

log = structlog.get_logger(__name__)

RESTORED_S = 10.0
"""Where reading the store back into Redis takes longer, the first backbone is loaded beside it."""
TITLE = "NPT Service"
SUMMARY = "Turns a handful of labelled images into a classifier."
DESCRIPTION = """\
Send a zip of labelled images to `POST /tune`; a worker tunes the prompts of a frozen CLIP with neural-collapse
regularisers; `POST /predict` serves what was learned. Every path also works under `/v1`.

Errors are `application/problem+json` (RFC 9457); `GET /problems` explains each kind.
"""
TAGS = [
    {"name": "tune", "description": "From a zip to a job."},
    {"name": "jobs", "description": "What takes longer than a request."},
    {"name": "predict", "description": "What do these pictures show?"},
    {"name": "compare", "description": "Several models on the same labelled images."},
    {"name": "models", "description": "Tuned classifiers and their reports."},
    {"name": "feedback", "description": "Images a model was not sure about, to be labelled and learned from."},
    {"name": "data sets", "description": "Stored archives, by the hash of their content."},
    {"name": "keys", "description": "Who may call; admin scope."},
    {"name": "about", "description": "What this server can use."},
    {"name": "health", "description": "No key needed."},
]


def create_app(settings: AppSettings | None = None, services: Services | None = None) -> FastAPI:
    """Make the application.

    Args:
        settings: The environment's where None.
        services: The worker floor, where somebody else opened it and will close it; opened at start-up where None.

    Raises:
        ConfigError: An API key that cannot be used, or none although other machines can connect.
    """
    settings = settings or get_app_settings()
    keyring = keyring_of(settings)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with _resources(settings, services, metrics) as context:
            app.state.context = context
            keyring.start()
            if not keyring.is_open and not keyring.has_usable:
                log.warning("no API key yet, every request is refused", do="python -m app keys create --scope admin")
            try:
                yield
            finally:
                await in_thread(keyring.stop)

    app = FastAPI(
        title=TITLE,
        summary=SUMMARY,
        description=DESCRIPTION,
        version=_version(),
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.settings, app.state.keyring, app.state.metrics = settings, keyring, metrics
    for router in ROUTERS:
        app.include_router(router)
        app.include_router(router, prefix="/v1", include_in_schema=False)
    app.include_router(pages.router)
    problems.install(app)
    document.install(app)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Idempotency-Key", "Last-Event-ID", "Content-Type"],
            expose_headers=["Location", "Retry-After", "X-Request-ID"],
        )
    app.add_middleware(SiteGuard, settings=settings, is_open=lambda: keyring.is_open)
    app.add_middleware(Surroundings, metrics=metrics)
    return app


@asynccontextmanager
async def _resources(
    settings: AppSettings, services: Services | None, metrics: Metrics
) -> AsyncGenerator[Context, None]:
    """Open what the routes use, and close it in the opposite order."""
    async with contextlib.AsyncExitStack() as stack:
        restored: Callable[[], object] = bool
        if services is None:
            services = await in_thread(open_services, settings)
            stack.push_async_callback(in_thread, services.close)
            await in_thread(services.reaper.start, leave_sweeping=True)
            restored = partial(services.reaper.wait_for_round, RESTORED_S)
        stack.push_async_callback(services.events.aclose)
        limiter = Limiter(services.address, services.keys.prefix, settings)
        stack.push_async_callback(limiter.aclose)
        uploads = UploadDesk(settings, services.store, limiter)
        feedback = FeedbackDesk(services.feedback, metrics)
        stack.push_async_callback(in_thread, feedback.close)
        inference = Inference(settings, services.models, services.catalogue, metrics, on_found=feedback.look)
        stack.push_async_callback(inference.close)
        onnx = OnnxDesk(services.onnx, services.models, inference.backbones)
        stack.push_async_callback(onnx.close)
        context = Context(
            settings=settings,
            services=services,
            inference=inference,
            onnx=onnx,
            feedback=feedback,
            uploads=uploads,
            limiter=limiter,
            metrics=metrics,
            idempotency=set(),
            predict_room=Room(settings.predict_memory_bytes),
            ingest=CapacityLimiter(settings.uploads_at_once),
        )
        services.usage.start()
        stack.push_async_callback(in_thread, services.usage.stop)
        observe.install(metrics, context)
        if settings.preload:
            # Importing torch keeps the interpreter busy for seconds; a start reads the store back first.
            stack.callback(inference.backbones.preload(after=restored).cancel)
        yield context


def _version() -> str:
    try:
        return version("npt-service")
    except PackageNotFoundError:
        return "0"
