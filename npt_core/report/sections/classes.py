"""Class by class: precision, recall, F1 with counts, zero-shot to tuned."""

from __future__ import annotations

from npt_core.report.blocks import Block, Columns, Figure, Fold, Section, Table, worst_rows
from npt_core.report.charts import Change, bar_chart, change_chart
from npt_core.report.facts import plain, points
from npt_core.report.measured import ClassScore, Measured

DRAWN = 24
"""So many classes are drawn, the weakest of them; the table has more."""

LISTED = 1_000
OPEN_TABLE = 30
"""A table of more rows is folded away at first."""


def classes(found: Measured) -> Section:
    """Draw F1 of both, the counts, and list everything, the weakest class first."""
    scores = found.tuned if found.tuned.known else found.zero_shot
    before = {one.label: one for one in found.zero_shot.classes}
    rows = sorted(scores.classes, key=_weakness)
    if not rows:
        return Section("classes", "Classes", [])
    blocks: list[Block] = [Columns([*_changes(found, rows, before), *_counts(found)], wide=True)]
    table = _table(found, rows, before)
    if len(rows) > OPEN_TABLE:
        blocks.append(Fold(f"All classes in numbers ({len(rows):,})", [table]))
    else:
        blocks.append(table)
    return Section("classes", "Classes", blocks)


def _weakness(one: ClassScore) -> tuple[float, str]:
    return (2.0 if one.f1 is None else one.f1, one.label)


def _changes(found: Measured, rows: list[ClassScore], before: dict[str, ClassScore]) -> list[Figure]:
    shown = [one for one in rows if one.f1 is not None][:DRAWN]
    if not shown:
        return []
    tuned = found.tuned.known
    changes = [
        Change(one.label, before[one.label].f1 if one.label in before else None, one.f1 if tuned else None)
        for one in shown
    ]
    which = f"The {len(shown)} weakest classes." if len(rows) > len(shown) else "The weakest class is on top."
    drawing = change_chart("F1 of each class, zero-shot and tuned", changes, "zero-shot", "tuned")
    words = f"{which} F1 is 100{chr(160)}% where every image of the class, and no other, was called so."
    return [Figure("F1 of each class", drawing, words)]


def _counts(found: Measured) -> list[Figure]:
    counts = [(label, float(images)) for label, images in found.train_counts.items()]
    if not counts:
        return []
    fewest = sorted(counts, key=lambda one: one[1])[:DRAWN] if len(counts) > DRAWN else counts
    which = f"The {DRAWN} classes with the fewest images." if len(counts) > DRAWN else "What each class learned from."
    return [Figure("Images of each class", bar_chart("Images of each class", fewest, "images"), which)]


def _table(found: Measured, rows: list[ClassScore], before: dict[str, ClassScore]) -> Table:
    tuned = found.tuned.known
    written = []
    for one in rows:
        old = before.get(one.label)
        new = one if tuned else None
        change = points(new.f1 - old.f1) if new and old and new.f1 is not None and old.f1 is not None else "—"
        written.append(
            [
                one.label,
                plain(found.train_counts.get(one.label)),
                plain(one.support),
                _number(new.precision if new else None),
                _number(new.recall if new else None),
                _number(new.f1 if new else None),
                _number(old.f1 if old else None),
                change,
            ]
        )
    shown, more = worst_rows(written, LISTED, "classes")
    return Table(
        "Precision, recall and F1, the weakest class first",
        ["Class", "Learned from", "Measured on", "Precision", "Recall", "F1", "Zero-shot F1", "Change, points"],
        shown,
        frozenset(range(1, 8)),
        more or "— where it is undefined: a class that was never answered has no precision.",
    )


def _number(value: float | None) -> str:
    return "—" if value is None else plain(value, 2) if value not in (0.0, 1.0) else f"{value:.2f}"
