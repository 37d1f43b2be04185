"""`npt tune`: a folder or a zip of labelled images to a classifier, on a server or, with --local, without one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.connection import connected
from app.cli.exits import CommandError, usage
from app.cli.jobs import ended
from app.cli.options import DEFAULT_URL, LOCAL, Device, Json, Key, Url
from app.cli.output import emit, note, say
from app.cli.watch import follow, ways

SETTINGS = "Settings of the tuning"


def _setting(words: str, **more: Any) -> Any:
    return typer.Option(help=words, rich_help_panel=SETTINGS, **more)


def tune(
    pictures: Annotated[
        Path | None, typer.Argument(metavar="FOLDER|ZIP", help="One folder of images for each class.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar="ID", help="A stored data set instead.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the model; models of one name are versions.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow the job until it has ended.")] = False,
    alias: Annotated[str | None, typer.Option(help="Point this alias to the model in the end; with --wait.")] = None,
    method: Annotated[str | None, _setting("coop (default), linear_probe, auto, …: see /methods of a server.")] = None,
    regularizer: Annotated[str | None, _setting("npt, cpt or none.")] = None,
    backbone: Annotated[
        str | None, _setting("One of the server's; with --local any, as NPT_BACKBONE names it.")
    ] = None,
    shots: Annotated[int | None, _setting("Use at most so many images a class.")] = None,
    epochs: Annotated[int | None, _setting("Passes over the images.")] = None,
    seed: Annotated[int | None, _setting("Seed of the training.")] = None,
    config: Annotated[
        str | None,
        _setting("Any settings: JSON, or a file of it. The options above come before it.", metavar="JSON|FILE"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            envvar="NPT_TUNE_SET",
            metavar="KEY=VALUE",
            help="One setting, may repeat: lr=0.002, method_config.n_ctx=8.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Tune in this process.", rich_help_panel=LOCAL)] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where the classifier goes.", rich_help_panel=LOCAL),
    ] = None,
    device: Device = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Tune a classifier on a folder or a zip of labelled images.

    On a server the job goes on by itself: Ctrl-C with --wait ends the looking on, and not the job.
    """
    options = {
        "method": method,
        "regularizer": regularizer,
        "backbone": backbone,
        "shots": shots,
        "epochs": epochs,
        "seed": seed,
    }
    settings = settings_of(config, set_ or (), options)
    if (pictures is None) == (dataset is None):
        raise usage("tune takes a folder or a zip of images, or --dataset and the id of a stored one, and not both.")
    if local:
        if pictures is None or alias:
            raise usage(
                "--local works without a server: it takes a folder or a zip, and knows no data set ids or aliases."
            )
        from app.cli.tune_local import tune_here

        tune_here(pictures, settings, output=output, name=name, device=device, as_json=as_json)
        return
    if output is not None:
        raise usage("--output belongs to --local; the model of a server is fetched with `npt export`.")
    if alias and not wait:
        raise usage("--alias is set when the job has ended: add --wait.")
    if pictures is not None and not pictures.exists():
        raise usage(f"There is no folder and no zip {str(pictures)!r}; give one folder of images for each class.")
    with connected(url, key) as client:
        try:
            job = client.tune(pictures, dataset_id=dataset, name=name, **settings)
        except KeyboardInterrupt:
            note("The upload was broken off. `npt jobs list` shows whether a job was started all the same.")
            raise
        if not wait:
            _started(job.state.raw, as_json)
            return
        note(f"The job is {job.id}.")
        state = follow(client, job.id)
        ended(state, as_json=as_json)
        if alias and state.model_id:
            client.set_alias(alias, state.model_id)
            note(f"The alias {alias} points to it.")
        if as_json:
            emit(state.raw)
        else:
            note(f"Try it: npt predict {alias or state.model_id} IMAGE   Look: npt report {state.model_id}")


def _started(raw: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        emit(raw)
        return
    say(str(raw["id"]))
    for warning in raw.get("warnings") or ():
        note(f"note: {warning}")
    note(f"The job is {raw['status']}. {ways(str(raw['id']))}")


def settings_of(config: str | None, pairs: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of --config, in whose place those of --set come, and before both the options with names.

    Raises:
        CommandError: They cannot be read.
    """
    settings = _read(config) if config else {}
    for pair in pairs:
        path, mark, text = pair.partition("=")
        if not mark or not path.strip():
            raise usage(f"--set is {pair[:80]!r}; write KEY=VALUE, like lr=0.002 or method_config.n_ctx=8.")
        _put(settings, path.strip().split("."), _value(text), pair)
    return settings | {name: value for name, value in options.items() if value is not None}


def _read(config: str) -> dict[str, Any]:
    text = config
    if not config.lstrip().startswith("{"):
        try:
            text = Path(config).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise usage(f"--config is neither JSON (it begins with {{) nor a file that can be read: {error}.") from None
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise usage(f"--config is no JSON: {error}.") from None
    if not isinstance(settings, dict):
        raise usage('--config is JSON, and no object: write {"method": "linear_probe"}.')
    return settings


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(settings: dict[str, Any], path: Sequence[str], value: Any, pair: str) -> None:
    *above, last = path
    for part in above:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise CommandError(f"--set {pair[:80]!r} goes into {part!r}, which is set to something else.", "usage", 2)
    settings[last] = value
