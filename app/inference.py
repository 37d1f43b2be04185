"""Prediction in this process: classifiers and batches, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from anyio import to_thread

from app.backbones import Backbones
from app.encoding import Loaded, Seen
from app.metrics import Metrics
from app.plans import Plan, Plans, Question, by_resize
from app.settings import AppSettings
from npt_core.errors import NPTError
from npt_core.serving.ranking import Ranking, rank
from npt_core.serving.terms import Agreed
from worker.catalogue import Catalogue
from worker.models import ModelRepository

if TYPE_CHECKING:
    from torch import Tensor

    from npt_core.classifier import Classifier, Scores
    from npt_core.serving.resident import Resident


SMALL = 256
"""Pictures times classes that are scored where the request is answered: a tenth of a millisecond or two."""


@dataclass(frozen=True)
class Picture:
    """One image file as it was sent."""

    filename: str
    data: bytes


@dataclass(frozen=True)
class Answered:
    """What one classifier says about every picture, in order.

    Attributes:
        model: Its id, or `zero-shot`.
        backbone: Whose eyes it sees with.
        pictures: Its answer to each, or why there is none.
        warnings: For whoever asked.
        alias: What the model was asked for by, where that was no id.
        terms: On what terms it answers.
        calibrated: Its probabilities may be read as frequencies, see `npt_core.classifier.Scores`.
        temperature: What its logits were divided by.
    """

    model: str
    backbone: str
    pictures: tuple[Ranking | NPTError, ...]
    warnings: tuple[str, ...] = ()
    alias: str | None = None
    terms: Agreed = Agreed()
    calibrated: bool = False
    temperature: float = 1.0


class Inference:
    """Answers questions about pictures.

    Args:
        settings: Sizes and limits.
        models: Where tuned classifiers lie.
        catalogue: What ids and aliases mean.
        metrics: Where batches and images are counted.
        on_found: See `Plans`.

    Attributes:
        backbones: Those of this server.
    """

    def __init__(
        self,
        settings: AppSettings,
        models: ModelRepository,
        catalogue: Catalogue,
        metrics: Metrics,
        on_found: Callable[[str], object] = lambda model_id: None,
    ) -> None:
        self._metrics = metrics
        self.backbones = Backbones(settings, metrics, on_drop=lambda name: self._plans.forget_backbone(name))
        self._plans = Plans(settings.model_memory_bytes, self.backbones, models, catalogue, on_found)

    async def predict(self, pictures: Sequence[Picture], question: Question) -> list[Answered]:
        """Answer for every model of the question; each picture is encoded once for each backbone.

        Raises:
            Problem: A model that is not there, names it cannot take.
            OverloadedError: Too much is waiting already.
        """
        answers: dict[str, Answered] = {}
        unreadable = 0
        # One backbone after the other: where they do not fit into memory together, the second drives out the first.
        for models in (await self._plans.by_backbone(question)).values():
            async with AsyncExitStack() as held:
                plans = [await self._plans.plan(asked, question, held) for asked in models]
                for alike in by_resize(plans):
                    seen = await self._look(alike[0].loaded, pictures, [plan.classifier for plan in alike])
                    for plan in alike:
                        answers[plan.name] = await self._answer(plan, seen, question.top_k)
                    unreadable = sum(isinstance(one, NPTError) for one in seen)
        self._metrics.images.labels("unreadable").inc(unreadable)
        self._metrics.images.labels("ok").inc(len(pictures) - unreadable)
        return [answers[name] for name in question.models]

    async def _look(
        self, loaded: Loaded, pictures: Sequence[Picture], classifiers: Sequence[Resident | Classifier]
    ) -> list[Seen | NPTError]:
        """Decode and encode, as these classifiers all want it."""
        return await loaded.look(
            [picture.data for picture in pictures],
            features=any(not classifier.needs_pixels for classifier in classifiers),
            tokens=any(classifier.needs_tokens for classifier in classifiers),
            pixels=any(classifier.needs_pixels for classifier in classifiers),
            resize=classifiers[0].backbone.resize,
        )

    async def _answer(self, plan: Plan, seen: Sequence[Seen | NPTError], top_k: int) -> Answered:
        good = [one for one in seen if isinstance(one, Seen)]
        rankings: list[Ranking] = []
        calibrated, temperature = False, 1.0
        if good:

            def classify() -> tuple[list[Ranking], bool, float]:
                scores = _scores(plan, good)
                return rank(scores, top_k, plan.terms.reject_below), scores.calibrated, scores.temperature

            classifier = plan.classifier
            # What runs a tower runs on the thread that owns it; one matrix product does not, and a small one takes less
            # time than handing it to a thread.
            if classifier.is_ready(plan.labels):
                small = classifier.computes_here and not plan.labels and len(good) * len(classifier.labels) <= SMALL
                rankings, calibrated, temperature = classify() if small else await to_thread.run_sync(classify)
            else:
                # The tower's thread waits for no disk and no bucket.
                await to_thread.run_sync(classifier.look_again)
                rankings, calibrated, temperature = await asyncio.wrap_future(plan.loaded.batcher.call(classify))
                self._plans.weigh(plan)
        left = iter(rankings)
        return Answered(
            model=plan.model,
            backbone=plan.loaded.backbone.name,
            pictures=tuple(one if isinstance(one, NPTError) else next(left) for one in seen),
            warnings=plan.warnings,
            alias=plan.name if plan.name != plan.model else None,
            terms=plan.terms,
            calibrated=calibrated,
            temperature=temperature,
        )

    # --- state --------------------------------------------------------------------------------------------------------

    def forget(self, model_id: str) -> None:
        """A model was deleted."""
        self._plans.forget(model_id)

    def loaded_bytes(self) -> dict[str, float]:
        """Memory of what is loaded."""
        return {"backbones": self.backbones.nbytes, "models": self._plans.nbytes}

    def cache_looks(self) -> dict[str, dict[str, float]]:
        """How often something was in memory, and how often not."""
        return {"backbones": self.backbones.looks, "classifiers": self._plans.looks}

    async def close(self) -> None:
        """Answer what was admitted, then stop every thread."""
        await self.backbones.close()


def _scores(plan: Plan, seen: Sequence[Seen]) -> Scores:
    import torch

    classifier, tokens = plan.classifier, None
    if classifier.needs_pixels:
        images = torch.stack([cast("Tensor", one.pixels) for one in seen])
    else:
        images = torch.stack([cast("Tensor", one.features) for one in seen])
    if classifier.needs_tokens:
        tokens = torch.stack([cast("Tensor", one.tokens) for one in seen])
    return classifier.predict(images, labels=plan.labels, tokens=tokens, priors=plan.terms.priors)
