"""Aliases: names that point to a model and move in one step, so that a release and its way back are one call each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import Enum

import structlog

from npt_core.errors import ConfigError, Fault
from npt_core.priors import frequency_faults
from worker.errors import ConflictError, NotFoundError, WorkerError
from worker.ids import check_id
from worker.jobfiles import read_record
from worker.models import LOCK, ModelRepository
from worker.records import AliasRecord, Page, utcnow
from worker.store.base import Store

log = structlog.get_logger(__name__)


class Keep(Enum):
    """Says that something stays as it is, where None would say that it goes."""

    KEEP = "keep"


KEEP = Keep.KEEP

ALIAS_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
MAX_ALIASES = 1000
_ALIAS = re.compile(ALIAS_PATTERN)
_TAKEN = re.compile(r"zero-shot|(model|job)_.*")
"""What means something else where a model is asked for."""


class AliasRepository:
    """Stored aliases, each a small file that is replaced as a whole; the file is named by a hash of the alias."""

    def __init__(self, store: Store, models: ModelRepository) -> None:
        self._store = store
        self._models = models

    def get(self, alias: str) -> AliasRecord:
        """Raises NotFoundError."""
        try:
            return read_record(self._store, _key(alias), AliasRecord)
        except NotFoundError:
            raise NotFoundError(f"There is no alias {alias[:80]!r}.") from None

    def put(
        self,
        alias: str,
        model_id: str,
        *,
        reject_below: float | None | Keep = KEEP,
        priors: Mapping[str, float] | None | Keep = KEEP,
    ) -> tuple[AliasRecord, bool]:
        """Point an alias to a model; readers see the old model or the new one, never neither.

        Args:
            alias: The name.
            model_id: What it shall mean.
            reject_below: The probability under which an answer counts as none; `KEEP`: as the alias has it.
            priors: How often each of the model's labels occurs; `KEEP`: as the alias has them, if the model has the
                same labels.

        Returns:
            The alias, and whether it is new.

        Raises:
            ConfigError: no such alias can be, or the priors are not of this model's labels.
            NotFoundError: no such model.
            ConflictError: there are too many aliases.
        """
        check_alias(alias)
        with self._store.lock(LOCK):  # the model cannot be deleted between the look and the write
            labels = self._models.get(model_id).labels
            now = utcnow()
            try:
                known = self.get(alias)
            except NotFoundError:
                if len(self._store.names("aliases")) >= MAX_ALIASES:
                    raise ConflictError(f"There are {MAX_ALIASES} aliases, which is the most; delete one.") from None
                record = _with_terms(
                    AliasRecord(alias=alias, model_id=model_id, created_at=now, updated_at=now),
                    labels,
                    reject_below,
                    priors,
                )
                self._store.put(_key(alias), record.to_json())
                log.info("alias made", alias=alias, model=model_id)
                return record, True
            record = _with_terms(known.model_copy(update={"model_id": model_id}), labels, reject_below, priors)
            if record == known:
                return known, False
            moved = {"previous": known.model_id} if known.model_id != model_id else {}
            record = record.model_copy(update={"updated_at": now, **moved})
            self._store.put(_key(alias), record.to_json())
        log.info("alias moved" if moved else "alias changed", alias=alias, model=model_id, previous=record.previous)
        return record, False

    def delete(self, alias: str) -> None:
        """Raises NotFoundError."""
        if not self._store.delete(_key(alias)):
            raise NotFoundError(f"There is no alias {alias[:80]!r}.")
        log.info("alias deleted", alias=alias)

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[AliasRecord]:
        """By name. `cursor` is the last alias of the page before."""
        records = [record for record in self._all() if cursor is None or record.alias > cursor]
        return Page(items=records[:limit], next_cursor=records[limit - 1].alias if len(records) > limit else None)

    def of(self, model_id: str) -> tuple[str, ...]:
        """The aliases that point to a model."""
        check_id(model_id, "model")
        return tuple(record.alias for record in self._all() if record.model_id == model_id)

    def _all(self) -> Sequence[AliasRecord]:
        records = []
        for name in self._store.names("aliases"):
            try:
                records.append(read_record(self._store, f"aliases/{name}", AliasRecord))
            except NotFoundError:
                continue  # deleted just now
            except WorkerError as error:
                log.error("alias left out of a listing", file=name, error=error.message)
        return sorted(records, key=lambda record: record.alias)


def _with_terms(
    record: AliasRecord,
    labels: Sequence[str],
    reject_below: float | None | Keep,
    priors: Mapping[str, float] | None | Keep,
) -> AliasRecord:
    kept = isinstance(priors, Keep)
    stated = record.priors if isinstance(priors, Keep) else priors
    if stated is not None and (faults := frequency_faults(stated, labels)):
        told = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
        why = " They are those the alias has: send others with the model, or null for none." if kept else ""
        raise ConfigError(f"The class frequencies do not fit the model {record.model_id}: {told}.{why}", faults)
    threshold = record.reject_below if isinstance(reject_below, Keep) else reject_below
    return record.model_copy(update={"reject_below": threshold, "priors": None if stated is None else {**stated}})


def check_alias(alias: str) -> str:
    """The alias itself if it can be one.

    Raises:
        ConfigError: it cannot.
    """
    if not _ALIAS.fullmatch(alias):
        message = (
            f"{alias[:80]!r} cannot be an alias; it needs 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "and begins with a letter or digit"
        )
    elif _TAKEN.fullmatch(alias):
        message = f"{alias!r} cannot be an alias: it means something else where a model is asked for; take another name"
    else:
        return alias
    raise ConfigError(f"{message}.", [Fault("alias", message)])


def _key(alias: str) -> str:
    return f"aliases/{hashlib.sha256(alias.encode('utf-8', 'surrogatepass')).hexdigest()}.json"
