"""Prometheus metrics of one app: prefix `npt_`, base units, labels from short fixed lists. Nothing private.

The registry belongs to the app, not to the process, so that tests can make many apps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


disable_created_metrics()  # type: ignore[no-untyped-call]  # when each series began: twice the lines, read by nobody here


class Metrics:
    """Everything this process counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "npt_http_requests", "HTTP requests answered.", ("method", "path", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "npt_http_request_duration_seconds",
            "Time from the request's headers to the end of its answer; status is its class, like 2xx.",
            ("method", "path", "status"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.requests_active = Gauge("npt_http_requests_active", "Requests being answered.", registry=self.registry)
        self.upload_bytes = Counter("npt_upload_bytes", "Bytes of archives received.", registry=self.registry)
        self.images = Counter(
            "npt_predict_images",
            "Images classified, by outcome: ok or unreadable.",
            ("outcome",),
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "npt_predict_batch_size",
            "Images in one run of the image tower.",
            ("backbone",),
            buckets=BATCH_SIZES,
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "npt_predict_batch_duration_seconds",
            "Time of one run of the image tower.",
            ("backbone",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.feedback = Counter(
            "npt_feedback_images",
            "Images a model was not sure about: kept for a person to label, or dropped.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("kept", "dropped"):
            self.feedback.labels(outcome)  # both stand at zero until something happens
        self.event_streams = Gauge("npt_event_streams", "Clients that follow a job.", registry=self.registry)
        self.images_encoded, self._counting = 0, threading.Lock()

    def observe_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one answered request; `path` is a route's template, never a path of a client."""
        method = method if method in METHODS else "other"
        self.requests.labels(method, path, str(status)).inc()
        self.request_seconds.labels(method, path, f"{status // 100}xx").observe(seconds)

    def observe_batch(self, backbone: str) -> Callable[[int, float], None]:
        """What a batcher of that backbone calls after each batch."""
        sizes, durations = self.batch_size.labels(backbone), self.batch_seconds.labels(backbone)

        def observe(size: int, seconds: float) -> None:
            sizes.observe(size)
            durations.observe(seconds)
            with self._counting:  # every backbone has a thread of its own
                self.images_encoded += size

        return observe

    def collect_state(self, read: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        """Ask `read` at each scrape: {gauge: {label or "": value}}, with the gauges of `STATE`."""
        self.registry.register(_State(read))

    def render(self) -> bytes:
        """Everything in the text format."""
        return generate_latest(self.registry)


STATE: Mapping[str, tuple[str, str]] = {
    "jobs": ("Jobs that have not ended, by status.", "status"),
    "workers": ("Workers seen lately.", ""),
    "redis_up": ("1 where Redis answers.", ""),
    "store_free_bytes": ("Free space on the data volume.", ""),
    "store_limit_bytes": ("What data sets, models, jobs, feedback and uploads may take; 0: no limit.", ""),
    "store_bytes": ("Size of the files in the data folder, measured once a minute.", "kind"),
    "predict_pending_images": ("Images waiting for an answer.", "backbone"),
    "loaded_bytes": ("Memory of what is loaded to predict with.", "what"),
    "uploads_active": ("Uploads being received.", ""),
}


class _State(Collector):
    """Gauges that are read when somebody asks."""

    def __init__(self, read: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        self._read = read
        self._started = time.time()

    def describe(self) -> list[Metric]:
        return []  # asked at registration: reading then would be too early

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("npt_process_start_time_seconds", "When this process began.", value=self._started)
        for name, values in self._read().items():
            text, label = STATE[name]
            family = GaugeMetricFamily(f"npt_{name}", text, labels=[label] if label else [])
            for key, value in values.items():
                family.add_metric([key] if label else [], value)
            yield family
