"""Zero-shot beside tuned, on the same images, and what was chosen on the way."""

from __future__ import annotations

from npt_core.report.blocks import Block, Columns, Figure, Fold, Section, Table, Text
from npt_core.report.charts import Estimate, interval_chart
from npt_core.report.facts import count, mapping, objects, percent, plain, points, signed, text
from npt_core.report.measured import Measured, Scores

MAX_ROWS = 100
_CHOSEN = {"method": "the method", "tuned_share": "the share of the tuned answer"}


def accuracy(found: Measured) -> Section:
    """Numbers of both with intervals, images that only one got right, and the table of `selection`."""
    parts = [("Zero-shot", found.zero_shot, "one"), ("Tuned", found.tuned, "two")]
    there = [(name, scores, kind) for name, scores, kind in parts if scores.known]
    if not there:
        return Section("accuracy", "Zero-shot beside tuned", [Text("Nothing was measured.")])
    rows = [
        Estimate(name, scores.accuracy, scores.interval, kind)
        for name, scores, kind in there
        if scores.accuracy is not None
    ]
    drawing = interval_chart("Accuracy with its 95 % interval", rows)
    figure = Figure("Accuracy", drawing, "Share of images that were right; the bar is the 95 % interval (Wilson).")
    both = _both(found)
    blocks: list[Block] = [
        Columns([figure, both] if both else [figure], wide=True),
        _table(found.zero_shot, found.tuned),
    ]
    chosen = _selection(found)
    if chosen:
        blocks.append(chosen)
    return Section("accuracy", "Zero-shot beside tuned", blocks)


def _table(before: Scores, after: Scores) -> Table:
    def row(name: str, one: float | None, two: float | None) -> list[str]:
        difference = points(two - one) if one is not None and two is not None else "—"
        return [name, percent(one), percent(two), difference]

    rows = [row("Accuracy", before.accuracy, after.accuracy)]
    for name, title in (("precision", "Macro precision"), ("recall", "Macro recall"), ("f1", "Macro F1")):
        rows.append(row(title, before.macro[name], after.macro[name]))
    rows.append(row("Calibration error (ECE)", before.error, after.error))
    lower = signed(after.nll - before.nll) if before.nll is not None and after.nll is not None else "—"
    rows.append(["NLL, nats", plain(before.nll), plain(after.nll), lower])
    rows.append(["Images", plain(before.count), plain(after.count), "—"])
    return Table(
        "On the same images",
        ["", "Zero-shot", "Tuned", "Difference"],
        rows,
        frozenset({1, 2, 3}),
        "Differences are in percentage points. Macro: the mean over classes. Of the calibration error and of the "
        "negative log-likelihood (NLL) less is better.",
    )


def _both(found: Measured) -> Table | None:
    paired = mapping(found.report, "metrics", "paired")
    names = (
        ("Both right", "both_right"),
        ("Only tuned right", "only_tuned_right"),
        ("Only zero-shot right", "only_zero_shot_right"),
        ("Both wrong", "both_wrong"),
    )
    counts = [(title, count(paired, name)) for title, name in names]
    if all(value is None for _, value in counts):
        return None
    return Table("Image by image", ["", "Images"], [[title, plain(value)] for title, value in counts], frozenset({1}))


def _selection(found: Measured) -> Fold | None:
    selection = mapping(found.report, "selection")
    table = objects(selection, "table")
    if not table:
        return None
    chosen = mapping(selection, "chosen")
    rows = [
        [
            text(one, "recipe") + (" (chosen)" if dict(one) == dict(chosen) else ""),
            plain(one.get("tuned_share"), 2),
            percent(one.get("accuracy")),
            plain(one.get("nll")),
        ]
        for one in table[:MAX_ROWS]
    ]
    what = _CHOSEN.get(text(selection, "chooses"), text(selection, "chooses"))
    words = (
        f"By cross-validation on {plain(selection.get('images'))} training images in {plain(selection.get('folds'))} "
        "folds; the measured images took no part."
    )
    columns = ["Recipe", "Tuned share", "Accuracy, mean of classes", "NLL"]
    return Fold(
        f"How {what} was chosen", [Text(words), Table("What was compared", columns, rows, frozenset({1, 2, 3}))]
    )
