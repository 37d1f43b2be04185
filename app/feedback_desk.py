"""Keeps pictures that a model was not sure about, after the answer has gone out: nobody waits for a disk.

A prediction offers its pictures; one thread writes those whose model wants them. What waits is bounded in bytes, and
what comes beyond that is not kept: feedback is a sample, an answer is a promise.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from app.inference import Answered, Picture
from app.metrics import Metrics
from app.plans import ZERO_SHOT
from npt_core.errors import NPTError
from worker.feedback import FeedbackRepository, FeedbackSettings, Unsure

log = structlog.get_logger(__name__)

REMEMBER_S = 1.0
"""A switch that is turned is noticed after so long."""
WAITING_BYTES = 64 << 20
STOP_S = 5.0


@dataclass
class _Known:
    settings: FeedbackSettings
    until: float


class FeedbackDesk:
    """Takes pictures after predictions and writes them down."""

    def __init__(self, repository: FeedbackRepository, metrics: Metrics) -> None:
        self._repository, self._metrics = repository, metrics
        self._known: dict[str, _Known] = {}
        self._condition = threading.Condition()
        self._waiting: deque[tuple[str, list[Unsure]]] = deque()
        self._bytes = 0
        self._busy = self._closing = False
        self._thread = threading.Thread(target=self._loop, name="feedback", daemon=True)
        self._thread.start()

    def wants_none(self, answers: Iterable[Answered]) -> bool:
        """Whether it is known without a look at the disk that `offer` would take nothing of these answers."""
        now = time.monotonic()
        models = [answer.model for answer in answers if answer.model != ZERO_SHOT]
        known = [self._known.get(model) for model in models]
        return all(one is not None and one.until >= now and not one.settings.enabled for one in known)

    def look(self, model_id: str) -> None:
        """Learn how a model's switch stands, where that is not known: on a thread that reads files anyway."""
        self._settings(model_id)

    def offer(self, pictures: Sequence[Picture], answers: Iterable[Answered]) -> None:
        """Take what its model wants of what was answered; reads a small file at most once a second and model."""
        for answer in answers:
            settings = self._settings(answer.model) if answer.model != ZERO_SHOT else None
            if settings is None or not settings.enabled:
                continue
            unsure = [
                Unsure(
                    filename=picture.filename,
                    picture=picture.data,
                    answer=tuple((one.label, one.probability) for one in ranking.top),
                )
                for picture, ranking in zip(pictures, answer.pictures, strict=True)
                if not isinstance(ranking, NPTError) and ranking.top[0].probability < settings.below
            ]
            if unsure:
                self._take(answer.model, unsure)

    def _settings(self, model_id: str) -> FeedbackSettings:
        now = time.monotonic()
        known = self._known.get(model_id)
        if known is None or known.until < now:
            if len(self._known) > 10_000:
                self._known.clear()
            try:
                settings = self._repository.settings(model_id)
            except (NPTError, OSError) as error:  # an answer that was found is not lost over it
                log.error("feedback switch cannot be read, nothing is kept", model=model_id, error=str(error))
                settings = FeedbackSettings()
            known = self._known[model_id] = _Known(settings, now + REMEMBER_S)
        return known.settings

    def _take(self, model_id: str, unsure: list[Unsure]) -> None:
        size = sum(len(one.picture) for one in unsure)
        with self._condition:
            if self._closing or self._bytes + size > WAITING_BYTES:
                self._metrics.feedback.labels("dropped").inc(len(unsure))
                return
            self._bytes += size
            self._waiting.append((model_id, unsure))
            self._condition.notify_all()

    def _loop(self) -> None:
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                model_id, unsure = self._waiting.popleft()
                self._bytes -= sum(len(one.picture) for one in unsure)
                self._busy = True
            try:
                kept = self._repository.keep(model_id, unsure)
            except (NPTError, OSError) as error:  # deleted meanwhile, a full disk: the answer was given all the same
                log.warning("feedback not kept", model=model_id, error=str(error))
                self._metrics.feedback.labels("dropped").inc(len(unsure))
            else:
                self._metrics.feedback.labels("kept").inc(kept)

    def settle(self, timeout_s: float = STOP_S) -> bool:
        """Wait until everything that was taken is written; False where that took too long."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self) -> None:
        """Write what was taken, and stop."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(STOP_S)
