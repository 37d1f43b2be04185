"""Which classifiers a question needs: ids and aliases resolved, classifiers loaded once, within their memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from app.backbones import Backbones
from app.caches import LoadingCache
from app.encoding import Loaded
from app.problems import Problem
from npt_core.errors import UnknownBackboneError
from npt_core.priors import frequency_faults
from npt_core.serving.terms import Agreed, Terms, agree
from npt_core.serving.told import unseen_warnings
from worker.catalogue import Catalogue
from worker.errors import NotFoundError
from worker.models import ModelRepository
from worker.records import AliasRecord, ModelRecord

if TYPE_CHECKING:
    from npt_core.classifier import Classifier
    from npt_core.clip.backbone import Backbone
    from npt_core.serving.resident import Resident

ZERO_SHOT = "zero-shot"
Key = tuple[Any, ...]
"""Backbone and model; for zero-shot the labels too."""


@dataclass(frozen=True)
class Question:
    """What is asked about the pictures.

    Attributes:
        models: Ids or aliases of models, or `zero-shot`.
        labels: Classify among these names; None: each model's own.
        top_k: Classes in an answer.
        terms: What the request states of how it wants to be answered.
        backbone: For zero-shot: one of this server's; None: the first.
    """

    models: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    top_k: int = 5
    terms: Terms = Terms()
    backbone: str | None = None

    def agreed(self, name: str, labels: Sequence[str], alias: AliasRecord | None) -> Agreed:
        """On what terms a model answers; its own threshold, which is in its file, left out.

        Args:
            name: What it was asked for by.
            labels: Of the model, where the question has none.
            alias: What that name is, where it is an alias.

        Raises:
            Problem: 422, the class frequencies do not fit the labels.
        """
        found = agree(self.terms, alias.terms if alias is not None else Terms())
        faults = [] if found.priors is None else frequency_faults(found.priors, self.labels or labels)
        if faults:
            whose = "that the alias states" if found.priors_from == "alias" else "of the request"
            way_out = " Send `priors` of your own, or `priors=null` for none." if found.priors_from == "alias" else ""
            told = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
            raise Problem(
                "invalid-request",
                f"The class frequencies {whose} do not fit what {name} answers with: {told}.{way_out}",
                faults,
            )
        return found


@dataclass(frozen=True)
class Asked:
    """A name that was asked for, and what it meant at that moment: nothing stored, for zero-shot."""

    name: str
    record: ModelRecord | None = None
    alias: AliasRecord | None = None


@dataclass(frozen=True)
class Plan:
    """One classifier ready to answer.

    Attributes:
        name: What it was asked for by.
        model: Its id, or `zero-shot`.
        key: What it is kept under.
        loaded: Its backbone.
        classifier: As it is kept in memory.
        labels: What it is to choose among; None: its own.
        terms: On what terms it answers.
        warnings: For whoever asked.
    """

    name: str
    model: str
    key: Key
    loaded: Loaded
    classifier: Resident | Classifier
    labels: tuple[str, ...] | None
    terms: Agreed
    warnings: tuple[str, ...]


class Plans:
    """Belongs to one event loop.

    Args:
        memory_bytes: For all classifiers together.
        backbones: What they run on.
        models: Where tuned classifiers lie.
        catalogue: What ids and aliases mean.
        on_found: Called with the id of each model that is asked for, on the thread that has just read its record: for
            whatever else must be read before the answer goes out.
    """

    def __init__(
        self,
        memory_bytes: int,
        backbones: Backbones,
        models: ModelRepository,
        catalogue: Catalogue,
        on_found: Callable[[str], object],
    ) -> None:
        self._backbones, self._models, self._catalogue, self._on_found = backbones, models, catalogue, on_found
        self._cache: LoadingCache[Key, Resident | Classifier] = LoadingCache(
            memory_bytes, lambda classifier: classifier.nbytes
        )

    @property
    def looks(self) -> dict[str, float]:
        """How often a classifier was in memory, and how often not."""
        return {"hit": self._cache.hits, "miss": self._cache.misses}

    @property
    def nbytes(self) -> int:
        """Memory of the classifiers that are loaded."""
        return self._cache.nbytes

    async def by_backbone(self, question: Question) -> dict[str, list[Asked]]:
        """The models of a question by the backbone they need, each once."""
        first = next(iter(await self._backbones.known()))
        groups: dict[str, list[Asked]] = {}
        for name in dict.fromkeys(question.models):
            asked = Asked(name) if name == ZERO_SHOT else await self._find(name)
            needed = (question.backbone or first) if asked.record is None else asked.record.backbone
            groups.setdefault(needed, []).append(asked)
        return groups

    async def _find(self, name: str) -> Asked:
        def look() -> Asked:
            record, alias = self._catalogue.find(name)
            self._on_found(record.id)
            return Asked(name, record, alias)

        try:
            return await to_thread.run_sync(look)
        except NotFoundError as error:
            raise Problem("unknown-model", f"{error.message} GET /models lists them.") from None

    async def plan(self, asked: Asked, question: Question, held: AsyncExitStack) -> Plan:
        """A classifier, ready to answer the question until `held` is closed.

        Raises:
            Problem: Its backbone is not here, or it cannot take the labels or the class frequencies.
        """
        name, record = asked.name, asked.record
        if record is None:
            return await self._plan_zero_shot(question, held)
        terms = question.agreed(name, record.labels, asked.alias)
        try:
            loaded = await held.enter_async_context(self._backbones.use(record.backbone))
        except UnknownBackboneError as error:
            raise Problem(
                "backbone-not-configured", f"The model {name} was made with {record.backbone!r}. {error.message}"
            ) from None

        async def load() -> Resident | Classifier:
            return await to_thread.run_sync(_load, self._models, record.id, loaded.backbone)

        key = (record.backbone, record.id)
        classifier = await self._cache.get(key, load)
        terms = terms.with_model(classifier.calibration.reject_below)
        if question.labels is not None:
            refusal = classifier.new_classes_refusal()
            strange = [label for label in question.labels if label not in classifier.labels]
            if refusal and strange:
                raise Problem(
                    "incompatible-config",
                    f"The model {name} cannot classify among other names than its own: {refusal}. "
                    f"Its names are {', '.join(map(repr, classifier.labels[:20]))}.",
                )
            warnings = unseen_warnings(loaded.backbone, strange)
            return Plan(name, record.id, key, loaded, classifier, question.labels, terms, warnings)
        return Plan(name, record.id, key, loaded, classifier, None, terms, ())

    async def _plan_zero_shot(self, question: Question, held: AsyncExitStack) -> Plan:
        labels = question.labels
        if not labels:
            raise Problem("no-labels", "`model=zero-shot` needs `labels`: a JSON list of class names.")
        terms = question.agreed(ZERO_SHOT, labels, None)
        loaded = await held.enter_async_context(self._backbones.use(question.backbone))

        def make() -> Resident | Classifier:
            from npt_core.classifier import zero_shot
            from npt_core.serving.resident import keep_resident

            return keep_resident(zero_shot(loaded.backbone, labels), lambda: zero_shot(loaded.backbone, labels))

        async def load() -> Resident | Classifier:
            with self._backbones.hold(loaded):  # others may wait for this when the one who began it has gone
                return await asyncio.wrap_future(loaded.batcher.call(make))

        key = (loaded.backbone.name, ZERO_SHOT, labels)
        classifier = await self._cache.get(key, load)
        warnings = unseen_warnings(loaded.backbone, labels)
        return Plan(ZERO_SHOT, ZERO_SHOT, key, loaded, classifier, None, terms, warnings)

    def weigh(self, plan: Plan) -> None:
        """Count again what a classifier takes: it was asked among names it did not know, and keeps them for a while."""
        self._cache.weigh(plan.key, plan.classifier)

    def forget(self, model_id: str) -> None:
        """A model was deleted."""
        self._cache.drop_where(lambda key: key[1] == model_id)

    def forget_backbone(self, name: str) -> None:
        """A backbone left the memory; its classifiers hold on to it."""
        self._cache.drop_where(lambda key: key[0] == name)


def by_resize(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans that want pictures fitted into the square in the same way: for them each is encoded once."""
    groups: dict[str | None, list[Plan]] = {}
    for plan in plans:
        groups.setdefault(plan.classifier.backbone.resize, []).append(plan)
    return list(groups.values())


def _load(models: ModelRepository, model_id: str, backbone: Backbone) -> Resident | Classifier:
    from npt_core.serving.resident import load_resident

    # Looked at again before more of it is read: it may have been damaged since, or have left the cache of a bucket.
    sound = partial(models.sound_folder, model_id)
    return load_resident(sound(), backbone, sound)
