"""What is taken for what: the worst pairs by name, a matrix, and pictures of mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from npt_core.report.blocks import Block, Columns, Figure, Fold, Picture, Pictures, Section, Table, Text, image_uri
from npt_core.report.charts import heat_map
from npt_core.report.facts import entries, objects, percent, plain, text
from npt_core.report.measured import Measured, Scores

WHOLE = 20
"""A matrix of more classes shows those of the worst pairs."""

MAX_PICTURES = 40
MAX_PICTURE_CHARS = 600_000
"""Of all pictures on the page together."""


def confusion(found: Measured) -> Section:
    """Name the pairs, draw the matrix, show pictures."""
    scores = found.tuned if found.tuned.known else found.zero_shot
    blocks = _beside(scores, "tuned" if found.tuned.known else "zero-shot")
    album = _Album()
    blocks += _mistakes(album, objects(found.report, "examples", "wrong"))
    blocks += _changed(album, found)
    if found.tuned.known:
        other = _beside(found.zero_shot, "zero-shot")
        if other:
            blocks.append(Fold("The same for zero-shot", other))
    return Section("confusion", "What is taken for what", blocks)


def _beside(scores: Scores, whose: str) -> list[Block]:
    parts = [*_matrix(scores, whose), *_pairs(scores)]
    return [Columns(parts, wide=True)] if parts else []


def _pairs(scores: Scores) -> list[Block]:
    if not scores.known:
        return []
    if not scores.pairs:
        return [Text("No image was taken for another class.")] if scores.accuracy == 1 else []
    support = {one.label: one.support for one in scores.classes}
    rows = []
    for pair in scores.pairs[:20]:
        images = support.get(pair.label)
        rows.append([pair.label, pair.predicted, plain(pair.count), percent(pair.count / images) if images else "—"])
    return [
        Table("The most confused pairs", ["True class", "Taken for", "Images", "Of the class"], rows, frozenset({2, 3}))
    ]


def _matrix(scores: Scores, whose: str) -> list[Block]:
    names = [one.label for one in scores.classes]
    chosen = list(range(len(names)))
    if len(names) > WHOLE:
        order = {name: place for place, name in reversed(list(enumerate(names)))}
        wanted = dict.fromkeys(name for pair in scores.pairs for name in (pair.label, pair.predicted))
        chosen = sorted([order[name] for name in wanted if name in order][:WHOLE])
    if len(chosen) < 2 or not scores.known:
        return []
    counts = _counts(scores, chosen)
    part = f": the {len(chosen)} classes in the worst pairs" if len(chosen) < len(names) else ""
    drawing = heat_map(f"Confusion matrix, {whose}{part}", [names[i] for i in chosen], counts, "images")
    words = (
        "A row is a true class, a column an answer. Blue is right, red wrong; the stronger, the larger its share of "
        "the row."
    )
    return [Figure(f"Confusion matrix, {whose}{part}", drawing, words)]


def _counts(scores: Scores, chosen: Sequence[int]) -> list[list[float | None]]:
    whole = scores.confusion
    if whole is not None:
        return [[whole[i][j] for j in chosen] for i in chosen]
    pairs = {(pair.label, pair.predicted): pair.count for pair in scores.pairs}
    classes = scores.classes

    def one(i: int, j: int) -> float | None:
        if i == j:  # recall times support is the number of hits
            recall, support = classes[i].recall, classes[i].support
            return None if recall is None or support is None else round(recall * support)
        return pairs.get((classes[i].label, classes[j].label))

    return [[one(i, j) for j in chosen] for i in chosen]


class _Album:
    """Pictures of the page, which have a limit together."""

    def __init__(self) -> None:
        self.room = MAX_PICTURE_CHARS

    def picture(self, data: Mapping[str, Any], lines: Sequence[str]) -> Picture:
        source = image_uri(data.get("image"))
        if source is not None:
            source = source if len(source) <= self.room else None
            self.room -= len(source or "")
        words = f"{text(data, 'path')}: {text(data, 'label')}, answered {text(data, 'predicted')}"
        return Picture(source, words, lines)


def _mistakes(album: _Album, wrong: Sequence[Mapping[str, Any]]) -> list[Block]:
    shown = [
        album.picture(
            one,
            [
                f"“{text(one, 'label')}” taken for “{text(one, 'predicted')}”",
                f"{percent(one.get('confidence'), 0)} sure",
                text(one, "path"),
            ],
        )
        for one in wrong[:MAX_PICTURES]
    ]
    return [Pictures("Mistakes of the most confused pairs, the surest first", shown)] if shown else []


def _changed(album: _Album, found: Measured) -> list[Block]:
    blocks: list[Block] = []
    for name, title in (("broken", "Right before tuning, wrong now"), ("fixed", "Wrong before tuning, right now")):
        entered = entries(found.report, "examples", name)
        shown = [
            album.picture(
                one,
                [
                    f"“{text(one, 'label')}”, now “{text(one, 'predicted')}”"
                    if name == "broken"
                    else f"“{text(one, 'label')}”, before “{text(one, 'zero_shot')}”",
                    f"{percent(one.get('confidence'), 0)} sure",
                    text(one, "path"),
                ],
            )
            for one in objects(found.report, "examples", name)[:MAX_PICTURES]
        ]
        if shown:
            blocks.append(Fold(f"{title} ({len(entered)} shown)", [Pictures(title, shown)]))
    return blocks
