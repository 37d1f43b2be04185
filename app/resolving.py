"""What the names in a request mean at this moment, for jobs that run later."""

from __future__ import annotations

from app.context import Context
from app.problems import Problem
from npt_core.errors import Fault, UnknownBackboneError
from worker.errors import NotFoundError
from worker.records import AliasRecord, ModelRecord


def model_named(context: Context, name: str) -> ModelRecord:
    """The model of an id or alias; see `found_by`."""
    return found_by(context, name)[0]


def found_by(context: Context, name: str) -> tuple[ModelRecord, AliasRecord | None]:
    """The model of an id or alias, and the alias if it is one. Imports the towers' package: call it in a thread.

    Raises:
        Problem: 404, it is not there; 409, its backbone is not on this server.
    """
    try:
        record, alias = context.services.catalogue.find(name)
    except NotFoundError as error:
        raise Problem("unknown-model", f"{error.message} GET /models lists them.") from None
    here = backbones_here(context)
    if record.backbone not in here:
        raise Problem(
            "backbone-not-configured",
            f"The model {name} was made with {record.backbone!r}; this server has {', '.join(here)}.",
        )
    return record, alias


def refuse_unknown_backbone(context: Context, name: str) -> None:
    """Say now, not in the job, that there is no such backbone. Call it in a thread.

    Raises:
        UnknownBackboneError: It is not configured here.
    """
    here = backbones_here(context)
    if name not in here:
        message = f"This server has no backbone {name[:100]!r}; it has {', '.join(here)}."
        raise UnknownBackboneError(message, [Fault("backbone", message)])


def backbones_here(context: Context) -> list[str]:
    """The names of this server's backbones, the default one first. Call it in a thread."""
    from npt_core.clip.specs import parse_backbone

    return [parse_backbone(entry).name for entry in context.settings.backbone_entries]
