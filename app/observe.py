"""What is read when somebody asks for the metrics: the state of this process, of Redis and of the store."""

from __future__ import annotations

from collections.abc import Mapping

import redis
import structlog

from app.context import Context
from app.metrics import Metrics
from app.tally_metrics import TallyCollector
from worker.tally import Reading

log = structlog.get_logger(__name__)


def install(metrics: Metrics, context: Context) -> None:
    """Have the metrics of an app tell of its context."""
    metrics.collect_state(lambda: _state(context))
    metrics.registry.register(
        TallyCollector(lambda: _tally(context), lambda: _looks(context), lambda: metrics.images_encoded)
    )


def _state(context: Context) -> Mapping[str, Mapping[str, float]]:
    """The gauges; called in a thread. What Redis alone knows is left out where it does not answer."""
    services = context.services
    health = services.health()
    found: dict[str, Mapping[str, float]] = {
        "redis_up": {"": float(health["redis"])},
        "store_limit_bytes": {"": services.settings.max_store_bytes},
        "store_free_bytes": {"": health["free_bytes"]},
        "predict_pending_images": context.inference.backbones.pending(),
        "loaded_bytes": context.inference.loaded_bytes(),
        "uploads_active": {"": context.uploads.active},
    }
    if health["redis"]:
        found |= {
            "jobs": {"queued": health["queued"], "running": health["running"]},
            "workers": {"": health["workers"]},
        }
    if services.usage.bytes is not None:
        found["store_bytes"] = services.usage.bytes
    return found


def _tally(context: Context) -> Reading | None:
    try:
        return context.services.tally.read()
    except redis.RedisError as error:
        log.debug("redis does not answer", error=str(error))
        return None


def _looks(context: Context) -> Mapping[tuple[str, ...], float]:
    caches = {**context.inference.cache_looks(), "onnx": context.onnx.looks}
    return {(cache, result): number for cache, looks in caches.items() for result, number in looks.items()}
