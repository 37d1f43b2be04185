"""How the tuning went: loss and accuracy, and the geometry of the classes, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from npt_core.report.blocks import Block, Columns, Facts, Figure, Fold, Section, Table, Text
from npt_core.report.charts import Series, line_chart
from npt_core.report.facts import mapping, number, objects, plain, share, text
from npt_core.report.measured import Measured

MAX_EPOCHS = 10_000
MAX_TERMS = 8
_TERMS = {"ce": "cross-entropy", "lmc": "language-modality collapse", "mmi": "multi-modality isomorphism"}
_KINDS = ("two", "one", "three", "four")

GEOMETRY = (
    (
        "equiangularity_mean",
        "Equiangularity of the texts",
        "How far the angles between class texts are from all being equal, on average. 0 is a simplex: no class is "
        "nearer to another than the rest.",
    ),
    (
        "duality",
        "Duality",
        "How well each class text points where its images are: the cosine of the two directions. 1 is perfect.",
    ),
    (
        "equinorm",
        "Equinorm of the texts",
        "How much the lengths of the class texts differ, seen from their mean. 0: all are the same.",
    ),
    (
        "within_class",
        "Spread within classes",
        "How widely the images of a class scatter, against the distance of the classes. 0: each class is a point. On "
        "a frozen image tower it cannot change.",
    ),
    (
        "image_equiangularity_mean",
        "Equiangularity of the images",
        "The same as for the texts, of the mean image of each class.",
    ),
    (
        "bias_spread",
        "Head start of classes",
        "How much some class texts score higher than others on an average image, in logits. 0: none has a head start.",
    ),
)


def training(found: Measured) -> Section:
    """Draw the history and give the schedule."""
    history = [one for one in objects(found.report, "history")[:MAX_EPOCHS] if number(one, "epoch") is not None]
    blocks: list[Block] = []
    if not history:
        blocks.append(Text("This method is not tuned in epochs, so there is no curve."))
    else:
        figures = []
        losses = _series(history, "loss", "loss", "two")
        if losses:
            drawing = line_chart("Training loss per epoch", [losses], x_title="epoch")
            figures.append(Figure("Loss", drawing, "Of the shipped classifier, on the images it learns from."))
        right = _series(history, "accuracy", "accuracy", "two", bounded=True)
        if right:
            drawing = line_chart("Accuracy on the training images per epoch", [right], x_title="epoch", shares=True)
            words = "On images it learns from: no measure of how good it is."
            figures.append(Figure("Accuracy while training", drawing, words))
        figures += _terms(history)
        blocks.append(Columns(figures))
    schedule = mapping(found.report, "config", "schedule")
    facts = [(text(name).replace("_", " "), text(value)) for name, value in list(schedule.items())[:30]]
    if facts and history:
        blocks.append(Fold("Schedule", [Facts(facts)]))
    return Section("training", "Training", blocks)


def _series(
    rows: Sequence[Mapping[str, Any]], key: str, name: str, kind: str, *, bounded: bool = False
) -> Series | None:
    read = share if bounded else number
    values = [(number(one, "epoch") or 0.0, read(one, key)) for one in rows]
    there = sorted((x, y) for x, y in values if y is not None)
    return Series(name, there, kind) if there else None


def _terms(history: Sequence[Mapping[str, Any]]) -> list[Figure]:
    names = [text(name) for name in history[-1] if isinstance(name, str)]
    names = [name for name in names if name not in ("epoch", "lr", "loss", "accuracy")][:MAX_TERMS]
    figures = []
    for name in names if len(names) > 1 else []:
        series = _series(history, name, _TERMS.get(name, name), "three")
        if series:
            title = f"Term of the loss: {series.name}"
            figures.append(Figure(title, line_chart(f"{title}, per epoch", [series], x_title="epoch", height=170)))
    return figures


def geometry(found: Measured) -> Section:
    """Draw the numbers per epoch beside zero-shot, and list them all."""
    told = mapping(found.report, "geometry")
    epochs = [one for one in objects(told, "epochs")[:MAX_EPOCHS] if number(one, "epoch") is not None]
    figures = []
    for key, title, words in GEOMETRY:
        series = _series(epochs, key, "tuned", "two")
        if series is None or _is_flat(series):
            continue
        level = number(told, "zero_shot", key)
        drawing = line_chart(
            f"{title} per epoch",
            [series],
            x_title="epoch",
            level=("zero-shot", level) if level is not None else None,
            height=180,
        )
        figures.append(Figure(title, drawing, words))
    blocks: list[Block] = []
    if figures:
        blocks += [
            Text(
                "The theory behind the regulariser: a classifier is at its best where the directions of its classes "
                "are spread evenly, and texts and images agree. These numbers say how near it came.",
                quiet=True,
            ),
            Columns(figures),
        ]
    table = _table(told)
    if table:
        blocks.append(Fold("All numbers", [table]) if figures else table)
    return Section("geometry", "Geometry of the classes", blocks)


def _is_flat(series: Series) -> bool:
    """Whether a line would say nothing: on a frozen image tower the images' own numbers stay what they are."""
    values = [y for _, y in series.values]
    return max(values) - min(values) <= 1e-6 * max(1e-3, abs(max(values)))


def _number(told: Mapping[str, Any], column: str, name: str) -> str:
    value = number(told, column, name)
    return "—" if value is None else plain(value)


def _table(told: Mapping[str, Any]) -> Table | None:
    columns = ("zero_shot", "initial", "tuned")
    names = [text(name) for name in mapping(told, "tuned")][:40]
    rows = [[name.replace("_", " "), *(_number(told, column, name) for column in columns)] for name in names]
    if not rows:
        return None
    return Table(
        "Geometry before and after",
        ["", "Zero-shot", "Before tuning", "Tuned"],
        rows,
        frozenset({1, 2, 3}),
        "— where it is undefined, as for a method without class texts.",
    )
