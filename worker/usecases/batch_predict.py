"""Classify every picture of an archive: rows as JSON lines and as CSV, made part by part, so that a death costs little.

Pictures are taken in the order of the archive. What a part covers, and which pictures go through a tower together,
follows from the request alone: an attempt that goes on where another died ends with the same files.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from npt_core.data.archive import Entry, SafeArchive
from npt_core.data.names import shown
from npt_core.errors import ArchiveError
from worker.context import JobContext
from worker.ledger import Ledger
from worker.parts import Parts
from worker.predictions import CSV, FILES, JSONL, ZERO_SHOT, BatchRequest
from worker.records import Outcome
from worker.usecases.loading import load_backbone

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.serving.stream import Ask, Picture
    from npt_core.tuning.meter import Meter

PART_BATCHES = 8
"""Batches in a part, which is what a death costs at most."""

ANSWERS_AT_ONCE = 65_536
"""Classes in the answers of one batch, and of one part, at most: where a row names many, both are smaller."""


def run(context: JobContext) -> Outcome:
    """One attempt at a batch of predictions."""
    from npt_core.tuning.meter import Meter

    services, job_id = context.services, context.spec.id
    request = BatchRequest.model_validate(context.spec.config)
    context.tell({"phase": "unpacking"})
    parts = Parts(services.store, job_id)
    meter = Meter(context.progress)
    with SafeArchive.reopen(services.jobs.files.input(job_id)) as archive:
        asks = _asks(context, request)
        began, total = parts.done(), len(archive.entries)
        meter.expect("predicting", total)
        meter.skip("predicting", began)
        meter.enter("predicting")
        started = time.monotonic()
        _classify(context, request, asks, archive, parts, meter)
        seconds = time.monotonic() - started
        skipped = dict(archive.skipped)
    meter.enter("saving")
    width = min(request.top_k, max(len(ask.labels or ask.classifier.labels) for ask in asks))
    counts, files = _write(context, parts, width)
    models = len(request.models)
    result = {
        "images": total,
        "unreadable": counts["unreadable"] // models,
        "rows": counts["rows"],
        "rejected": counts["rejected"],
        "skipped": skipped,
        "files": files,
    }
    counters = {"images": total - began, "seconds_predicting": round(seconds, 3)}
    if seconds > 0:
        counters["images_per_second"] = round((total - began) / seconds, 2)
    result["terms"] = _terms(request, asks)
    return Outcome(result=result, counters=counters, warnings=_warnings(request, asks))


# --- asking -----------------------------------------------------------------------------------------------------------


def _asks(context: JobContext, request: BatchRequest) -> list[Ask]:
    """The classifiers, in the order of the request; each backbone is loaded once."""
    from npt_core.classifier import Classifier, zero_shot
    from npt_core.serving.stream import Ask

    models = context.services.models
    needed = [request.backbone if one == ZERO_SHOT else models.get(one).backbone for one in request.models]
    loaded: dict[str | None, Backbone] = {}
    asks = []
    for model, name, terms in zip(request.models, needed, request.agreed(), strict=True):
        if name not in loaded:
            loaded[name] = load_backbone(context, name)
        context.control.check()
        if model == ZERO_SHOT:
            asks.append(Ask(zero_shot(loaded[name], request.labels or ()), None, terms.priors))
        else:
            asks.append(Ask(Classifier.load(models.sound_folder(model), loaded[name]), request.labels, terms.priors))
    return asks


def _classify(
    context: JobContext, request: BatchRequest, asks: list[Ask], archive: SafeArchive, parts: Parts, meter: Meter
) -> None:
    """Make the parts that are missing."""
    from npt_core.serving.rows import line, rows_of
    from npt_core.serving.stream import classify_stream, default_batch

    answers = sum(min(request.top_k, len(ask.labels or ask.classifier.labels)) for ask in asks)
    batch = max(1, min(default_batch(asks), ANSWERS_AT_ONCE // answers))
    size = batch * max(1, min(PART_BATCHES, ANSWERS_AT_ONCE // (answers * batch)))
    start, lines, seen = parts.done(), list[bytes](), 0
    pictures, reject = _pictures(archive, start), [one["reject_below"] for one in _terms(request, asks)]
    for part in classify_stream(pictures, asks, batch=batch, control=context.control):
        lines += map(line, rows_of(part, request.models, top_k=request.top_k, reject_below=reject))
        seen += len(part.names)
        meter.advance("predicting", len(part.names))
        meter.report()
        if seen == size or start + seen == len(archive.entries):
            parts.add(start, start + seen, b"".join(lines))
            context.mark()
            context.services.tally.add({"images|worker": seen})
            start, lines, seen = start + seen, [], 0


def _pictures(archive: SafeArchive, start: int) -> Iterator[Picture]:
    for entry in archive.entries[start:]:
        yield entry.path, partial(_read, archive, entry)


def _read(archive: SafeArchive, entry: Entry) -> bytes:
    try:
        return archive.read(entry)
    except ArchiveError as error:
        raise type(error)(error.message.removeprefix(f"{shown(entry.path)}: ")) from error  # the row has its name


def _terms(request: BatchRequest, asks: list[Ask]) -> list[dict[str, Any]]:
    """What `/predict` says beside its answers, for each model."""
    told = []
    for model, stated, ask in zip(request.models, request.agreed(), asks, strict=True):
        calibration = ask.classifier.calibration
        terms = stated.with_model(calibration.reject_below)
        told.append(
            {
                "model": model,
                "calibrated": calibration.fitted and not set(ask.labels or ()) - set(ask.classifier.labels),
                "temperature": calibration.temperature,
                "reject_below": terms.reject_below,
                "reject_below_from": terms.reject_below_from,
                "priors_applied": terms.priors is not None,
                "priors_from": terms.priors_from,
            }
        )
    return told


def _warnings(request: BatchRequest, asks: list[Ask]) -> tuple[str, ...]:
    from npt_core.serving.told import unseen_warnings

    told: dict[str, None] = {}
    for model, ask in zip(request.models, asks, strict=True):
        own = () if model == ZERO_SHOT else ask.classifier.labels
        strange = [label for label in request.labels or () if label not in own]
        told |= dict.fromkeys(unseen_warnings(ask.classifier.backbone, strange))
    return tuple(told)


# --- answering --------------------------------------------------------------------------------------------------------


def _write(context: JobContext, parts: Parts, width: int) -> tuple[Counter[str], dict[str, Any]]:
    """Put the parts together, and the table beside them; what they hold, and the files."""
    from npt_core.serving.rows import Table

    table, counts = Table(width), Counter[str]()
    folder = context.results
    with Ledger(folder / FILES[JSONL]) as jsonl, Ledger(folder / FILES[CSV]) as sheet:
        sheet.write(table.header())
        for path in parts:
            context.control.check()
            data = path.read_bytes()
            jsonl.write(data)
            rows = [json.loads(text) for text in data.splitlines()]
            sheet.write(b"".join(map(table.line, rows)))
            counts["rows"] += len(rows)
            counts["rejected"] += sum(row["rejected"] for row in rows)
            counts["unreadable"] += sum("error" in row for row in rows)
        return counts, {JSONL: jsonl.describe(), CSV: sheet.describe()}
