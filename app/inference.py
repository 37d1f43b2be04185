"""Prediction in this process: backbones, classifiers and batches, loaded when first asked for, off the event loop.

torch and open_clip are imported by the first prediction (or the preload at start), not by the app.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog
from anyio import to_thread

from app.caches import LoadingCache
from app.encoding import Loaded, Seen, Wish
from app.metrics import Metrics
from app.problems import Problem
from app.settings import AppSettings
from npt_core.errors import BackboneError, DataError, NPTError, OutOfMemoryError, OverloadedError, UnknownBackboneError
from worker.errors import NotFoundError
from worker.models import ModelRepository
from worker.records import ModelRecord

if TYPE_CHECKING:
    from torch import Tensor

    from npt_core.classifier import Classifier, Scores
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.specs import BackboneSpec

log = structlog.get_logger(__name__)
T = TypeVar("T")

ZERO_SHOT = "zero-shot"
DRAIN_S = 10.0
CLASSIFIER_OVERHEAD_BYTES = 16 * 1024  # the objects around the tensors


@dataclass(frozen=True)
class Picture:
    """One image file as it was sent."""

    filename: str
    data: bytes


@dataclass(frozen=True)
class Question:
    """What is asked about the pictures.

    Attributes:
        models: Ids of models, or `zero-shot`.
        labels: Classify among these names; None: each model's own.
        top_k: Classes in an answer.
        reject_below: Probability under which an answer counts as rejected.
        backbone: For zero-shot: one of this server's; None: the first.
    """

    models: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    top_k: int = 5
    reject_below: float = 0.0
    backbone: str | None = None


@dataclass(frozen=True)
class Ranked:
    """The best classes of one picture: (label, probability, similarity), best first; or why there are none."""

    filename: str
    top: tuple[tuple[str, float, float], ...] = ()
    rejected: bool = False
    error: NPTError | None = None


@dataclass(frozen=True)
class Answered:
    """What one classifier says about every picture, in order."""

    model: str
    backbone: str
    pictures: tuple[Ranked, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """One classifier ready to answer."""

    name: str
    loaded: Loaded
    classifier: Classifier
    labels: tuple[str, ...] | None
    warnings: tuple[str, ...]


class Inference:
    """Answers questions about pictures.

    Args:
        settings: Sizes and limits.
        models: Where tuned classifiers lie.
        metrics: Where batches and images are counted.
    """

    def __init__(self, settings: AppSettings, models: ModelRepository, metrics: Metrics) -> None:
        self._settings, self._models, self._metrics = settings, models, metrics
        self._backbones: LoadingCache[str, Loaded] = LoadingCache(
            settings.backbone_memory_bytes, lambda loaded: loaded.backbone.nbytes, self._drop_backbone
        )
        self._classifiers: LoadingCache[tuple[Any, ...], Classifier] = LoadingCache(
            settings.model_memory_bytes, lambda classifier: classifier.nbytes + CLASSIFIER_OVERHEAD_BYTES
        )
        self._closing: set[asyncio.Task[Any]] = set()
        self._failures: dict[str, str] = {}
        self._preloading = False

    # --- backbones ----------------------------------------------------------------------------------------------------

    @cached_property
    def specs(self) -> Mapping[str, BackboneSpec]:
        """The configured backbones by the names users see; imports the towers' package, so call it in a thread."""
        from npt_core.clip.specs import parse_backbone

        return {spec.name: spec for spec in map(parse_backbone, self._settings.backbone_entries)}

    async def backbone(self, name: str | None = None) -> Loaded:
        """A backbone of this server, loaded; the first one for None.

        Raises:
            UnknownBackboneError: It is not configured here.
            BackboneError: It cannot be loaded.
        """
        specs = await to_thread.run_sync(lambda: self.specs)
        name = next(iter(specs)) if name is None else name
        if name not in specs:
            raise UnknownBackboneError(f"This server has no backbone {name[:100]!r}; it has {', '.join(specs)}.")
        return await self._backbones.get(name, lambda: to_thread.run_sync(self._try_backbone, specs[name]))

    def _try_backbone(self, spec: BackboneSpec) -> Loaded:
        try:
            loaded = self._load_backbone(spec)
        except NPTError as error:
            log.warning("backbone cannot be loaded", backbone=spec.name, detail=error.message)
            told = error.message if spec.kind != "local" else _HIDDEN.format(spec.name)  # its message names a path
            self._failures[spec.name] = told
            raise type(error)(told) from error
        self._failures.pop(spec.name, None)
        return loaded

    def _load_backbone(self, spec: BackboneSpec) -> Loaded:
        import torch

        from npt_core.clip import load_backbone

        settings = self._settings
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        backbone = load_backbone(
            spec, device=settings.device, precision=settings.precision, cache_dir=settings.weights_path
        )
        log.info("backbone loaded", backbone=backbone.name, device=str(backbone.device), bytes=backbone.nbytes)
        return Loaded(backbone, settings, self._metrics.observe_batch(backbone.name))

    def _drop_backbone(self, name: str, loaded: Loaded) -> None:
        self._classifiers.drop_where(lambda key: key[0] == name)
        task = asyncio.ensure_future(to_thread.run_sync(loaded.batcher.close, DRAIN_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def preload(self) -> asyncio.Task[None]:
        """Begin to load the first backbone; a failure is told to whoever asks for it."""
        self._preloading = True  # before anybody can ask
        return asyncio.create_task(self._preload(), name="preload")

    async def _preload(self) -> None:
        try:
            await self.backbone()
        except NPTError:
            return  # it was logged where it happened
        finally:
            self._preloading = False

    @property
    def in_trouble(self) -> bool:
        """Whether a backbone could not be loaded when it was last tried."""
        return bool(self._failures)

    @property
    def preloading(self) -> bool:
        """Whether the first backbone is on its way into memory."""
        return self._preloading

    async def describe_backbones(self) -> list[dict[str, Any]]:
        """Every configured backbone; those in memory in full."""
        specs = await to_thread.run_sync(lambda: self.specs)
        found = []
        for number, (name, spec) in enumerate(specs.items()):
            loaded = self._backbones.peek(name)
            known = {
                "name": name,
                "kind": spec.kind,
                "knows_photographs": spec.kind != "demo",
                "description": _SAYS[spec.kind],
            }
            known |= loaded.backbone.describe() if loaded else {}
            reason = self._failures.get(name)
            state = {"default": number == 0, "loaded": loaded is not None, "available": not reason, "reason": reason}
            found.append(known | state)
        return found

    # --- classifiers --------------------------------------------------------------------------------------------------

    async def _plan(self, name: str, record: ModelRecord | None, question: Question) -> _Plan:
        if record is None:
            return await self._plan_zero_shot(question)
        try:
            loaded = await self.backbone(record.backbone)
        except UnknownBackboneError as error:
            raise Problem(
                "backbone-not-configured", f"The model {name} was made with {record.backbone!r}. {error.message}"
            ) from None

        async def load() -> Classifier:
            return await to_thread.run_sync(_load_classifier, self._models, name, loaded.backbone)

        classifier = await self._classifiers.get((record.backbone, name), load)
        if question.labels is not None:
            refusal = classifier.method.new_classes_refusal()
            strange = [label for label in question.labels if label not in classifier.labels]
            if refusal and strange:
                raise Problem(
                    "incompatible-config",
                    f"The model {name} cannot classify among other names than its own: {refusal}. "
                    f"Its names are {', '.join(map(repr, classifier.labels[:20]))}.",
                )
            return _Plan(name, loaded, classifier, question.labels, _warnings(loaded.backbone, strange))
        return _Plan(name, loaded, classifier, None, ())

    async def _plan_zero_shot(self, question: Question) -> _Plan:
        labels = question.labels
        if not labels:
            raise Problem("no-labels", "`model=zero-shot` needs `labels`: a JSON list of class names.")
        loaded = await self.backbone(question.backbone)

        async def load() -> Classifier:
            from npt_core.classifier import zero_shot

            return await _wait(loaded.batcher.call(lambda: zero_shot(loaded.backbone, labels)))

        classifier = await self._classifiers.get((loaded.backbone.name, ZERO_SHOT, labels), load)
        return _Plan(ZERO_SHOT, loaded, classifier, None, _warnings(loaded.backbone, labels))

    def forget(self, model_id: str) -> None:
        """A model was deleted."""
        self._classifiers.drop_where(lambda key: key[1] == model_id)

    # --- answers ------------------------------------------------------------------------------------------------------

    async def predict(self, pictures: Sequence[Picture], question: Question) -> list[Answered]:
        """Answer for every model of the question; each picture is encoded once for each backbone.

        Raises:
            Problem: A model that is not there, names it cannot take.
            OverloadedError: Too much is waiting already.
        """
        answers: dict[str, Answered] = {}
        unreadable = 0
        # One backbone after the other: where they do not fit into memory together, the second drives out the first.
        for models in (await self._by_backbone(question)).values():
            plans = [await self._plan(name, record, question) for name, record in models]
            seen = await self._look(plans[0].loaded, pictures, [plan.classifier for plan in plans])
            for plan in plans:
                answers[plan.name] = await self._answer(plan, pictures, seen, question)
            unreadable = sum(isinstance(one, NPTError) for one in seen)
        self._metrics.images.labels("unreadable").inc(unreadable)
        self._metrics.images.labels("ok").inc(len(pictures) - unreadable)
        return [answers[name] for name in question.models]

    async def _by_backbone(self, question: Question) -> dict[str, list[tuple[str, ModelRecord | None]]]:
        """The models of a question by the backbone they need, each once; zero-shot has no record."""
        first = next(iter(await to_thread.run_sync(lambda: self.specs)))
        groups: dict[str, list[tuple[str, ModelRecord | None]]] = {}
        for name in dict.fromkeys(question.models):
            record = None if name == ZERO_SHOT else await self._record(name)
            needed = (question.backbone or first) if record is None else record.backbone
            groups.setdefault(needed, []).append((name, record))
        return groups

    async def _record(self, name: str) -> ModelRecord:
        try:
            return await to_thread.run_sync(self._models.get, name)
        except NotFoundError as error:
            raise Problem("unknown-model", f"{error.message} GET /models lists them.") from None

    async def _look(
        self, loaded: Loaded, pictures: Sequence[Picture], classifiers: Sequence[Classifier]
    ) -> list[Seen | NPTError]:
        """Decode and encode. The same bytes twice are looked at once, so that they get the same answer."""
        tokens = any(classifier.needs_tokens for classifier in classifiers)
        pixels = any(classifier.needs_pixels for classifier in classifiers)
        features = any(not classifier.needs_pixels for classifier in classifiers)
        keys = await to_thread.run_sync(lambda: [hashlib.sha256(picture.data).digest() for picture in pictures])
        wishes = {
            key: Wish(picture.data, features, tokens, pixels) for key, picture in zip(keys, pictures, strict=True)
        }
        futures = loaded.batcher.submit_many(list(wishes.values()))
        results = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        found = dict(zip(wishes, results, strict=True))
        return [_seen_or_error(found[key]) for key in keys]

    async def _answer(
        self, plan: _Plan, pictures: Sequence[Picture], seen: Sequence[Seen | NPTError], question: Question
    ) -> Answered:
        good = [one for one in seen if isinstance(one, Seen)]
        ranked: list[Ranked] = []
        if good:

            def classify() -> list[tuple[tuple[str, float, float], ...]]:
                return _best(_scores(plan, good), question.top_k)

            classifier = plan.classifier
            text_ready = classifier.text_features is not None and classifier.tuned_share == 1.0
            heavy = classifier.needs_pixels or plan.labels is not None or not text_ready
            # What runs a tower runs on the thread that owns it; one matrix product does not.
            tops = iter(await (_wait(plan.loaded.batcher.call(classify)) if heavy else to_thread.run_sync(classify)))
        for picture, one in zip(pictures, seen, strict=True):
            if isinstance(one, NPTError):
                ranked.append(Ranked(picture.filename, error=one))
                continue
            top = next(tops)
            ranked.append(Ranked(picture.filename, top, rejected=top[0][1] < question.reject_below))
        return Answered(plan.name, plan.loaded.backbone.name, tuple(ranked), plan.warnings)

    # --- state --------------------------------------------------------------------------------------------------------

    def pending(self) -> dict[str, float]:
        """Images waiting, by backbone."""
        return {loaded.backbone.name: loaded.batcher.pending for loaded in self._backbones.values()}

    def loaded_bytes(self) -> dict[str, float]:
        """Memory of what is loaded."""
        return {"backbones": self._backbones.nbytes, "models": self._classifiers.nbytes}

    async def close(self) -> None:
        """Answer what was admitted, then stop every thread."""
        for loaded in self._backbones.values():
            self._backbones.drop(loaded.backbone.name)
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=DRAIN_S + 1)


_HIDDEN = "The file of backbone {!r} cannot be used; the operator finds the reason in the log."
_SAYS: Mapping[str, str] = {
    "demo": "A small CLIP trained by this project on pictures it drew. It knows no photographs.",
    "open_clip": "A CLIP that open_clip publishes; described in full once it is loaded.",
    "hf-hub": "A CLIP from the Hugging Face hub; described in full once it is loaded.",
    "local": "A CLIP from a file of the operator's; described in full once it is loaded.",
}


def _load_classifier(models: ModelRepository, model_id: str, backbone: Backbone) -> Classifier:
    from npt_core.classifier import Classifier

    loaded: Classifier = Classifier.load(models.folder(model_id), backbone)
    return loaded


def _warnings(backbone: Backbone, labels: Sequence[str]) -> tuple[str, ...]:
    strange = sorted({word for label in labels for word in backbone.unseen_words(label)})
    if not strange:
        return ()
    words = ", ".join(repr(word) for word in strange[:20])
    return (f"Backbone {backbone.name!r} never saw these words in training: {words}. Expect little of them.",)


async def _wait(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)


def _seen_or_error(result: Seen | BaseException) -> Seen | NPTError:
    if isinstance(result, Seen | DataError):
        return result
    if isinstance(result, MemoryError):
        return OutOfMemoryError("There was not enough memory to decode this image; send a smaller one.")
    if isinstance(result, NPTError) and not isinstance(result, OverloadedError | BackboneError):
        return result
    raise result


def _scores(plan: _Plan, seen: Sequence[Seen]) -> Scores:
    import torch

    classifier = plan.classifier
    if classifier.needs_pixels:
        return classifier.predict(torch.stack([cast("Tensor", one.pixels) for one in seen]), labels=plan.labels)
    features = torch.stack([cast("Tensor", one.features) for one in seen])
    if not classifier.needs_tokens:
        return classifier.predict(features, labels=plan.labels)
    tokens = torch.stack([cast("Tensor", one.tokens) for one in seen])
    return classifier.predict(features, labels=plan.labels, tokens=tokens)


def _best(scores: Scores, top_k: int) -> list[tuple[tuple[str, float, float], ...]]:
    """The k best classes of each row; equal probabilities keep the order of the labels."""
    k = min(top_k, len(scores.labels))
    ordered = scores.probabilities.sort(dim=1, descending=True, stable=True)
    columns = ordered.indices[:, :k]
    similarities = scores.similarities.gather(1, columns).tolist()
    rows = zip(columns.tolist(), ordered.values[:, :k].tolist(), similarities, strict=True)
    return [
        tuple((scores.labels[c], p, s) for c, p, s in zip(column, probability, similarity, strict=True))
        for column, probability, similarity in rows
    ]
