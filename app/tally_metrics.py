"""What all workers counted in Redis, as Prometheus reads it: the same numbers in every API process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.tally import Durations, Reading, cumulated


class TallyCollector(Collector):
    """Asks at each scrape.

    Args:
        read: The numbers; None where Redis does not answer: then they are left out, not zero.
        own_caches: Looks into caches of this process: (cache, hit or miss) -> how many.
        own_images: Images this process encoded.
    """

    def __init__(
        self,
        read: Callable[[], Reading | None],
        own_caches: Callable[[], Mapping[tuple[str, ...], float]],
        own_images: Callable[[], float],
    ) -> None:
        self._read, self._own_caches, self._own_images = read, own_caches, own_images

    def describe(self) -> list[Metric]:
        return []  # asked at registration: reading then would be too early

    def collect(self) -> Iterator[Metric]:
        reading = self._read()
        yield _counter(
            "npt_cache_requests",
            "Looks into a cache; those of features are the workers'.",
            ("cache", "result"),
            {**(reading.cache if reading else {}), **self._own_caches()},
        )
        yield _counter(
            "npt_encoded_images",
            "Images that went through an image tower, every view of one for itself.",
            ("by",),
            {**(reading.images if reading else {}), ("api",): self._own_images()},
        )
        if reading is None:
            return
        yield _counter("npt_jobs_finished", "Jobs that ended.", ("kind", "status"), reading.jobs)
        yield _histogram(
            "npt_job_duration_seconds", "From a job's first start to its end.", ("kind", "status"), reading.run
        )
        yield _histogram("npt_job_wait_seconds", "From the request to a job's first start.", ("kind",), reading.wait)
        yield _histogram(
            "npt_job_phase_duration_seconds",
            "Time that a job spent in a phase, in the attempt that ended it.",
            ("kind", "phase"),
            reading.phase,
        )


def _counter(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], Durations]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, durations in sorted(values.items()):
        family.add_metric(key, list(cumulated(durations)), durations.total)
    return family
