"""How far the confidence of an answer can be believed, and below which an answer should be refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npt_core.report.blocks import Block, Columns, Figure, Fold, Notice, Section, Table, Text
from npt_core.report.charts import Bin, Series, line_chart, reliability_chart
from npt_core.report.facts import count, known, mapping, number, objects, percent, plain, share, text
from npt_core.report.measured import Measured

MAX_ROWS = 60
TITLE = "How far its confidence can be trusted"
_SOURCES = {
    "test-split": "the test split",
    "val-split": "the val split",
    "unused-images": "those that shots leaves unused",
    "held-out": "those held out to measure on",
    "cross-validation": "each judged by a prompt that had not seen it",
}
_PARTS = (
    ("before", "Before scaling", "one"),
    ("after", "After scaling", "two"),
    ("zero_shot", "Zero-shot", "three"),
)


def calibration(found: Measured) -> Section:
    """Draw reliability before and after scaling, and the table of thresholds."""
    told = mapping(found.report, "calibration")
    if not told:
        return Section("confidence", TITLE, _without(found))
    temperature, source = number(told, "temperature"), text(told, "source", limit=200)
    blocks: list[Block] = [
        Text(
            f"Temperature {plain(temperature, 2)}, fitted on {plain(count(told, 'count'))} images "
            f"({_SOURCES.get(source, source)}). Above 1 it makes answers less sure, below 1 surer; which answer "
            "comes first does not change. The numbers after scaling are of images the temperature was not fitted on."
        )
    ]
    blocks.append(_errors(told))
    figures = [figure for name, title, kind in _PARTS if (figure := _reliability(told, name, title, kind))]
    if figures:
        blocks.append(Columns(figures))
        words = (
            "On the dashed line an answer of 80 % confidence is right 80 % of the time. Points below it: surer than it "
            "should be. A larger point stands for more images; the bar is the 95 % interval of its height: where it "
            "crosses the line, the point says nothing against the confidence."
        )
        blocks.append(Text(words, quiet=True))
    blocks += _thresholds(told)
    return Section("confidence", TITLE, blocks)


def _without(found: Measured) -> list[Block]:
    errors = [(name, scores.error) for name, scores in (("zero-shot", found.zero_shot), ("tuned", found.tuned))]
    said = [f"{name} {percent(error)}" for name, error in errors if error is not None]
    words = "No temperature was fitted for this model."
    if said:
        words += (
            f" Expected calibration error: {', '.join(said)}; 0 means that 80 % confidence is right 80 % of the time."
        )
    return [Text(words)]


def _errors(told: Mapping[str, Any]) -> Table:
    rows = [
        [title, percent(share(told, name, "ece")), plain(number(told, name, "nll"))]
        for name, title, _ in _PARTS
        if mapping(told, name)
    ]
    return Table(
        "Calibration: expected error (ECE) and negative log-likelihood", ["", "ECE", "NLL"], rows, frozenset({1, 2})
    )


def _reliability(told: Mapping[str, Any], name: str, title: str, kind: str) -> Figure | None:
    bins = []
    for one in objects(told, name, "bins")[:MAX_ROWS]:
        confidence, accuracy, images = share(one, "confidence"), share(one, "accuracy"), count(one, "count")
        if confidence is not None and accuracy is not None and images:
            bins.append(Bin(confidence, accuracy, images))
    if not bins:
        return None
    bins.sort(key=lambda one: one.confidence)
    error = share(told, name, "ece")
    heading = title if error is None else f"{title}: ECE {percent(error)}"
    return Figure(heading, reliability_chart(f"Reliability, {title.lower()}", bins, kind))


def _thresholds(told: Mapping[str, Any]) -> list[Block]:
    rows, points = [], []
    for one in objects(told, "thresholds")[:MAX_ROWS]:
        threshold = share(one, "threshold")
        if threshold is None:
            continue
        answered, accuracy = share(one, "answered_share"), share(one, "accuracy")
        points.append((threshold, answered, accuracy))
        rows.append(
            [
                plain(threshold, 2),
                plain(count(one, "answered")),
                percent(answered),
                percent(accuracy) if accuracy is not None else "—",
                plain(count(one, "wrong_answered")),
                plain(count(one, "right_rejected")),
            ]
        )
    blocks: list[Block] = []
    advice = _advice(told)
    if advice:
        blocks.append(advice)
    if not rows:
        return blocks
    points.sort(key=lambda one: one[0])
    series = [
        Series("answered", [(x, y) for x, y, _ in points if y is not None], "three"),
        Series("right of the answered", [(x, y) for x, _, y in points if y is not None], "two"),
    ]
    series = [one for one in series if one.values]
    recommended = share(told, "recommended", "threshold")
    parts: list[Block] = []
    if series:
        drawing = line_chart(
            "What a reject threshold costs and gives",
            series,
            x_title="reject_below",
            shares=True,
            mark=("recommended", recommended) if recommended is not None else None,
        )
        words = "Further right fewer images are answered, and more of the answers are right."
        parts.append(Figure("Reject thresholds", drawing, words))
    columns = ["reject_below", "Answered", "Share", "Right of these", "Wrong ones left", "Right ones refused"]
    table = Table("Reject thresholds in numbers", columns, rows, frozenset(range(1, 6)))
    return [*blocks, Columns(parts, wide=True), Fold(f"All thresholds ({len(rows)})", [table])]


def _advice(told: Mapping[str, Any]) -> Notice | None:
    if not known(told, "recommended", "reason"):
        return None
    threshold, reason = share(told, "recommended", "threshold"), text(told, "recommended", "reason", limit=400)
    if threshold is None:
        return Notice("info", "No reject threshold is recommended.", reason)
    return Notice("info", f"Recommended: reject_below={plain(threshold, 2)}.", reason)
