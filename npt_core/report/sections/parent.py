"""What became of the classes of the model that a tuning went on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npt_core.report.blocks import Block, Facts, Figure, Section, Text
from npt_core.report.charts import Estimate, interval_chart
from npt_core.report.facts import entries, interval, known, listed, mapping, number, p_value, plain, points, share, text
from npt_core.report.measured import Measured

_STAGES = (("before", "The parent", "one"), ("at_start", "Before the first step", "three"), ("after", "Now", "two"))


def parent(found: Measured) -> Section:
    """Say what the old classes lost and how they were kept; empty for a tuning without a parent."""
    told = mapping(found.report, "parent")
    blocks: list[Block] = []
    if told:
        blocks = [Text(_classes(told)), *_accuracy(told), Facts(_facts(told))]
    return Section("parent", "Going on from a model", blocks)


def _classes(told: Mapping[str, Any]) -> str:
    old, new = entries(told, "old_classes"), [text(one) for one in entries(told, "new_classes")[:50]]
    added = f"new ones are {listed(new)}" if new else "there are no new ones"
    return f"It went on from {text(told, 'id')}: {plain(len(old))} classes were there before, {added}."


def _accuracy(told: Mapping[str, Any]) -> list[Block]:
    accuracy = mapping(told, "old_accuracy")
    how = text(told, "measured", limit=500)
    rows = []
    for name, title, kind in _STAGES:
        value = share(accuracy, name, "accuracy")
        if value is not None:
            rows.append(Estimate(title, value, interval(accuracy, name, "accuracy_interval"), kind))
    if not rows:
        return [Text(f"What the old classes lost: {how}.")]
    words = f"Measured {how}."
    change = number(accuracy, "change")
    if change is not None:
        words += f" The difference is {points(change)} points, p {p_value(accuracy.get('p_value'))}."
    drawing = interval_chart("Accuracy on the old classes with its 95 % interval", rows)
    return [Figure("Accuracy on the old classes", drawing, words)]


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    protection, bound = mapping(told, "protection"), mapping(told, "bound")
    rows = [
        ("Accuracy on the new classes", _percent_of(told)),
        ("Old classes kept by", text(protection, "used")),
        ("Old images tuned on again", plain(protection.get("replayed"))),
    ]
    if number(protection, "directions") is not None:
        rows.append(("Directions kept still", plain(protection.get("directions"))))
    if number(bound, "max_old_loss") is not None:
        rows += [
            ("Bound on the loss", plain(bound.get("max_old_loss"), 2)),
            ("Held", text(bound, "held") if known(bound, "held") else "no old images to hold it by"),
            ("Share of what was learned that was kept", plain(bound.get("share"), 2)),
        ]
    return rows


def _percent_of(told: Mapping[str, Any]) -> str:
    value, images = share(told, "new_accuracy", "accuracy"), number(told, "new_accuracy", "count")
    return "not measured" if value is None else f"{plain(100 * value, 1)} % of {plain(images)} images"
