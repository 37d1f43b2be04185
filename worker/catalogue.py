"""Models together with what refers to them: aliases that point to them, jobs that need them, models made from them."""

from __future__ import annotations

from collections.abc import Iterator

from worker.aliases import AliasRepository
from worker.errors import ConflictError, NotFoundError, WorkerError
from worker.feedback import FOLDER as FEEDBACK_FOLDER
from worker.feedback import WRITING as FEEDBACK_WRITING
from worker.ids import ID_PATTERN
from worker.jobs import JobStore
from worker.models import LOCK, ModelRepository
from worker.onnx_files import FOLDER as ONNX_FOLDER
from worker.records import AliasRecord, ModelRecord
from worker.references import References
from worker.store.base import Store

MAX_ANCESTORS = 100


class Catalogue:
    """What a name means, what a model comes from, and whether it may go."""

    def __init__(self, store: Store, models: ModelRepository, aliases: AliasRepository, jobs: JobStore) -> None:
        self._store = store
        self._models = models
        self._aliases = aliases
        self._jobs = jobs
        self._references = References(store)

    def resolve(self, name: str) -> ModelRecord:
        """The model of an id or alias, as it is now.

        Raises:
            NotFoundError: there is neither.
        """
        return self.find(name)[0]

    def find(self, name: str) -> tuple[ModelRecord, AliasRecord | None]:
        """The model of an id or alias, as it is now, and the alias if it is one.

        Raises:
            NotFoundError: there is neither.
        """
        if name.startswith("model_") and ID_PATTERN.fullmatch(name):
            return self._models.get(name), None
        try:
            alias = self._aliases.get(name)
        except NotFoundError:
            raise NotFoundError(f"There is no model and no alias {name[:80]!r}.") from None
        try:
            return self._models.get(alias.model_id), alias
        except NotFoundError:
            raise NotFoundError(
                f"The alias {name!r} points to {alias.model_id}, which is not there any more; point it to another "
                "model."
            ) from None

    def ancestors(self, record: ModelRecord) -> Iterator[tuple[str, ModelRecord | None]]:
        """The models this one was continued from, its parent first; the last one may be missing, and is None then."""
        seen = {record.id}
        parent = record.parent
        while parent is not None and parent not in seen and len(seen) <= MAX_ANCESTORS:
            seen.add(parent)
            try:
                found = self._models.get(parent)
            except WorkerError:  # deleted, left behind on another server, or damaged
                yield parent, None
                return
            yield parent, found
            parent = found.parent

    def delete(self, model_id: str) -> None:
        """Remove a model. A model that was continued from it does not need it, and keeps its id in its lineage.

        Raises:
            NotFoundError: no such model.
            ConflictError: an alias points to it, or an unfinished job needs it.
        """
        job_id = self._models.get(model_id).job_id
        if job_id is not None:
            self._jobs.clear_up(job_id)  # a copy that its winner left could be taken for the model, later
        with self._store.lock(LOCK):
            self._models.get(model_id)
            aliases = self._aliases.of(model_id)
            if aliases:
                raise ConflictError(
                    f"The model {model_id} is {', '.join(map(repr, aliases))}; point the alias elsewhere, or delete "
                    "it, first."
                )
            job = self._jobs.uses_model(model_id)
            if job is not None:
                raise ConflictError(f"The model is needed by the job {job}; cancel it or wait for its end.")
            self._store.delete(f"{ONNX_FOLDER}/{model_id}")
            self._models.delete(model_id)
            self._references.gone(model_id)
            with self._store.lock(FEEDBACK_WRITING):  # who writes there looks for the model first
                self._store.delete(f"{FEEDBACK_FOLDER}/{model_id}")
