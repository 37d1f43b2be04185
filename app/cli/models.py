"""`npt models` and `npt aliases`: classifiers that the server keeps, and the names that point to them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.connection import connected, model_id
from app.cli.datasets import confirmed
from app.cli.jobs import accuracies
from app.cli.options import DEFAULT_URL, Json, Key, Url, Yes
from app.cli.output import emit, note, percent, say, size, table

models = typer.Typer(help="Models of the server: list, show, delete.", no_args_is_help=True)
aliases = typer.Typer(help="Names that point to models: list, set, delete.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Id or alias of a model.")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="The name that callers use, for instance champion.")]
MOST = 100


def _accuracy(metrics: Any, which: str) -> str | None:
    one = metrics.get(which)
    return percent(one.get("accuracy")) if isinstance(one, dict) else None


@models.command("list")
def list_models(
    name: Annotated[str | None, typer.Option(help="The versions of this name alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many at most.")] = 20,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Newest first."""
    with connected(url, key) as client:
        page = client.models(name=name, limit=limit)
        pointing = {} if as_json else client.aliases()
    if as_json:
        for one in page:
            emit(one.raw)
        return
    called: dict[str, list[str]] = {}
    for alias, target in pointing.items():
        called.setdefault(target, []).append(alias)
    rows = [
        (
            one.id,
            f"{one.name} v{one.version}" if one.name else None,
            one.method,
            one.backbone,
            len(one.labels),
            _accuracy(one.metrics, "zero_shot"),
            _accuracy(one.metrics, "tuned"),
            ", ".join(called.get(one.id, ())) or None,
        )
        for one in page
    ]
    columns = ("MODEL", "NAME", "METHOD", "BACKBONE", "CLASSES", "ZERO-SHOT", "TUNED", "ALIAS")
    table(columns, rows, right=("CLASSES", "ZERO-SHOT", "TUNED"))
    if page.next_cursor:
        note(f"There are more; --limit shows up to {MOST}.")


@models.command()
def show(model: Model, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """One model: what it is, what it reached, where it comes from."""
    with connected(url, key) as client:
        found = client.model(model_id(client, model))
    if as_json:
        emit(found.raw)
        return
    raw = found.raw
    rows = [
        ("name", f"{found.name} v{found.version}" if found.name else None),
        ("created", raw["created_at"]),
        ("method", f"{found.method}, regulariser {raw.get('regularizer')}"),
        ("backbone", found.backbone),
        ("classes", f"{len(found.labels)}: {', '.join(found.labels[:30])}"),
        ("reached", accuracies(found.metrics)),
        ("data set", raw.get("dataset_id")),
        ("job", raw.get("job_id")),
        ("size", size(raw["size_bytes"])),
    ]
    table(("WHAT", found.id), rows)


@models.command()
def delete(model: Model, yes: Yes = False, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Delete a model that no alias points to and no unfinished job needs."""
    with connected(url, key) as client:
        found = model_id(client, model)
        confirmed(f"Delete the model {found} for good?", yes)
        client.delete_model(found)
    emit({"deleted": found}) if as_json else say(f"The model {found} is deleted.")


@aliases.command("list")
def list_aliases(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Every alias and its model."""
    with connected(url, key) as client:
        found = client.aliases()
    if as_json:
        for alias, target in found.items():
            emit({"alias": alias, "model": target})
        return
    table(("ALIAS", "MODEL"), found.items())


@aliases.command("set")
def set_alias(alias: Alias, model: Model, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Point an alias to a model, in one step: publish, and roll back."""
    with connected(url, key) as client:
        answer = client.set_alias(alias, model_id(client, model))
    if as_json:
        emit(answer)
        return
    say(f"{alias} -> {answer['model']}")
    if answer.get("previous"):
        note(f"The way back: npt aliases set {alias} {answer['previous']}")


@aliases.command("delete")
def delete_alias(
    alias: Alias, yes: Yes = False, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Remove an alias; its model stays."""
    with connected(url, key) as client:
        confirmed(f"Remove the alias {alias}?", yes)
        client.delete_alias(alias)
    emit({"deleted": alias}) if as_json else say(f"The alias {alias} is removed; its model stays.")
