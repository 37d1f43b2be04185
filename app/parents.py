"""The parent of a tuning, checked in the request: an id or an alias, and what may be asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from npt_core.errors import Fault, IncompatibleError
from worker.errors import NotFoundError
from worker.records import ModelRecord
from worker.service import Services


@dataclass(frozen=True)
class Parent:
    """A model to go on from."""

    record: ModelRecord
    manifest: Mapping[str, Any]

    def into(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a request, the parent's where it leaves them out; `parent` is its id.

        Raises:
            ConfigError: They do not fit the parent; every fault names both.
        """
        from npt_core.continual.settings import continued, refuse_renaming

        merged = continued(settings, self.manifest)
        names = settings.get("class_names")
        if isinstance(names, Mapping):
            refuse_renaming(names, {one["label"]: one["name"] for one in self.manifest["classes"]})
        asked = settings.get("backbone")
        if asked is not None and asked != self.record.backbone:
            message = f"is {str(asked)[:100]!r}, the parent was tuned on {self.record.backbone!r}; leave it out"
            raise IncompatibleError(f"backbone {message}.", [Fault("backbone", message)])
        return merged | {"backbone": self.record.backbone, "parent": self.record.id}


def find_parent(services: Services, settings: Mapping[str, Any]) -> Parent | None:
    """The model that the settings of a request go on from; None where they name none, or nothing that can be a name.

    Raises:
        NotFoundError: There is no such model and no such alias.
        CorruptRecordError: Its manifest cannot be read.
    """
    name = settings.get("parent")
    if not isinstance(name, str):
        return None
    try:
        record = services.catalogue.resolve(name)
    except NotFoundError as error:
        raise NotFoundError(f"`parent` cannot be used: {error.message}", [Fault("parent", error.message)]) from None
    return Parent(record, services.models.manifest(record.id))
