"""Pictures for the report: what the tuned classifier got wrong, and which answers tuning changed.

They are kept in the report as small thumbnails, because the data set may be gone when somebody reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from npt_core.calibration import certainty
from npt_core.data.names import shown
from npt_core.data.thumbnails import THUMBNAIL_SIDE, thumbnail
from npt_core.errors import ImageError
from npt_core.tuning.stages import Stages

MAX_PAIRS = 10
PER_PAIR = 4
MAX_CHANGED = 12
"""So many pictures each that tuning got right, and that it got wrong."""

MAX_THUMBNAIL_BYTES = 256 * 1024
"""Of all thumbnails of a report together; the pictures after that are named without one."""


def pick_examples(
    stages: Stages,
    on: Sequence[int],
    baseline: Tensor,
    tuned: Tensor,
    temperature: float,
    pairs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Choose measured pictures worth a look and make their thumbnails, decoding one at a time.

    Args:
        stages: With the data set that is read from, and the control that may stop it.
        on: Positions of the n measured images in the data set.
        baseline: (n, K) zero-shot logits.
        tuned: (n, K) logits of the tuned classifier.
        temperature: What it divides them by.
        pairs: The most confused classes first: `label` and `predicted`, see `evaluate.metrics`.

    Returns:
        `wrong`: pictures of the most confused pairs, the most confident mistakes of each first; `fixed`: zero-shot was
        wrong and the tuned classifier is right; `broken`: the opposite. Each picture has `label`, `predicted`,
        `confidence` (softmax of the tuned logits, 0 to 1), `zero_shot` (its answer), `path`, and `image`, a WebP of at
        most 64 x 64 pixels without metadata as a data URI, or None where it cannot be read or the room is used up.

    Raises:
        StopTuning: The control asked to stop.
    """
    names = [one.label for one in stages.task.classes]
    truth = stages.task.labels(on)
    sure = certainty(tuned, truth, temperature)
    confidence, predicted, before = sure.confidence, sure.answers, baseline.argmax(dim=1)
    surest_first = torch.argsort(confidence, descending=True, stable=True)

    def where(chosen: Tensor, limit: int) -> list[int]:
        return surest_first[chosen[surest_first]][:limit].tolist()

    number = {name: place for place, name in enumerate(names)}
    wrong = [
        j
        for pair in pairs[:MAX_PAIRS]
        for j in where((truth == number[pair["label"]]) & (predicted == number[pair["predicted"]]), PER_PAIR)
    ]
    fixed = where((before != truth) & (predicted == truth), MAX_CHANGED)
    broken = where((before == truth) & (predicted != truth), MAX_CHANGED)
    images = dict(_thumbnails(stages, on, dict.fromkeys([*wrong, *broken, *fixed])))

    def told(j: int) -> dict[str, Any]:
        return {
            "label": names[int(truth[j])],
            "predicted": names[int(predicted[j])],
            "confidence": float(confidence[j]),
            "zero_shot": names[int(before[j])],
            "path": shown(stages.task.dataset.samples[on[j]].path),
            "image": images[j],
        }

    return {"wrong": list(map(told, wrong)), "fixed": list(map(told, fixed)), "broken": list(map(told, broken))}


def _thumbnails(stages: Stages, on: Sequence[int], chosen: Mapping[int, None]) -> Iterator[tuple[int, str | None]]:
    dataset, room = stages.task.dataset, MAX_THUMBNAIL_BYTES
    for j in chosen:
        stages.log.control.check()
        try:
            uri = thumbnail(dataset.open_image(dataset.samples[on[j]], target=THUMBNAIL_SIDE))
        except (ImageError, OSError):  # it could be read a moment ago; the report does without it
            uri = None
        if uri is not None and len(uri) > room:
            uri = None
        room -= len(uri or "")
        yield j, uri
