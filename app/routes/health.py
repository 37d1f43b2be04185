"""Is it alive, can it take work, how is it doing: no key needed, nothing private told."""

from __future__ import annotations

from fastapi import APIRouter, Response
from redis import RedisError

from app.context import Ctx, in_thread
from app.metrics import CONTENT_TYPE
from app.schemas import Check, Liveness, Readiness
from worker.service import Services

router = APIRouter(tags=["health"])

_METRICS = "# HELP npt_workers Workers seen lately.\n# TYPE npt_workers gauge\nnpt_workers 1.0\n"
LOADING = "the first backbone is being loaded into memory"


@router.get("/livez", operation_id="livez")
async def livez() -> Liveness:
    """The process answers."""
    return Liveness(status="alive")


@router.get(
    "/readyz",
    operation_id="readyz",
    responses={503: {"model": Readiness, "description": "Something that it needs is missing"}},
)
async def readyz(context: Ctx, response: Response) -> Readiness:
    """The service can take work: the store is writable, Redis answers, its state is restored, a backbone is in memory.

    A missing worker is said but does not count: jobs are accepted and wait for one. Nor does a further backbone that
    cannot be loaded. Where the first one was to be loaded at the start and cannot be, the service is not ready, and
    tries again every minute; `GET /backbones` says why, and everything that does not need it works.
    """
    checks = await in_thread(readiness, context.services)
    backbones = context.inference.backbones
    loading, lacking = backbones.preloading, backbones.lacks_first
    which = "the first backbone" if lacking else "a backbone"
    cannot = f"{which} cannot be loaded: GET /backbones says why"  # not here: /readyz needs no key
    bad = LOADING if loading else cannot
    checks["backbone"] = _check(not loading and not backbones.in_trouble, "nothing is being waited for", bad)
    forgiven = {"workers"} if loading or lacking else {"workers", "backbone"}
    ready = all(check.ok for name, check in checks.items() if name not in forgiven)
    if not ready:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return Readiness(status="ready" if ready else "not-ready", checks=checks)


def readiness(services: Services) -> dict[str, Check]:
    """What readiness depends on."""
    health = services.health()
    redis, workers = bool(health["redis"]), int(health["workers"])
    try:
        restored = redis and bool(services.redis.exists(services.keys.epoch))
    except RedisError:
        restored = redis = False
    return {
        "store": _check(bool(health["store"]), "writable", "the data folder cannot be written to"),
        "redis": _check(redis, "answers", "Redis does not answer"),
        "state": _check(restored, "restored", "the store has not been read back into Redis yet"),
        "workers": _check(workers > 0, f"{workers} seen lately", "none seen lately: jobs wait until one starts"),
    }


def _check(ok: bool, good: str, bad: str) -> Check:
    return Check(ok=ok, detail=good if ok else bad)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _METRICS}},
            "description": "Prometheus text",
        }
    },
)
async def metrics(context: Ctx) -> Response:
    """Counts, latencies, queue depths, batch sizes: the Prometheus text format."""
    return Response(await in_thread(context.metrics.render), headers={"Content-Type": CONTENT_TYPE})
