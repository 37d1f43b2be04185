"""The charts of a report. Each takes plain numbers that were checked before, and says in words what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from npt_core.report.facts import cut, percent, plain
from npt_core.report.statistics import wilson_interval
from npt_core.report.svg import WIDTH, Plane, Scale, drawing, label, legend, line, rounded_range, tag

ROW = 22.0
LEFT = 44.0
NAMES = 104.0
"""Room for names of rows."""

MAX_POINTS = 400
"""A line is drawn through at most so many points; more cannot be told apart on a screen."""


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: For the legend.
        values: (x, y), sorted by x.
        kind: Class of its colour: `one`, `two`, `three`, `four`.
    """

    name: str
    values: Sequence[tuple[float, float]]
    kind: str


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    shares: bool = False,
    level: tuple[str, float] | None = None,
    mark: tuple[str, float] | None = None,
    height: float = 210.0,
) -> Markup:
    """Draw lines over a common axis.

    Args:
        title: What it is.
        series: At least one, each with at least one point.
        x_title: Name and unit of the lower axis.
        shares: Values are shares from 0 to 1, written in percent.
        level: Name and height of a dashed line to compare with.
        mark: Name and place of a vertical line.
        height: Units of the view box.
    """
    ys = [y for one in series for _, y in one.values] + ([level[1]] if level else [])
    xs = [x for one in series for x, _ in one.values]
    low, high = (0.0, 1.0) if shares else rounded_range(ys, floor=0.0 if min(ys) >= 0 else None)
    several = len(series) > 1 or level is not None or mark is not None
    top = 26.0 if several else 10.0
    plane = Plane(Scale(min(xs), max(xs), LEFT + 6, WIDTH - 12), Scale(low, high, height - 42, top))
    parts = plane.frame(x_title, "%" if shares else "{:.3g}")
    if level:
        place = plane.y(level[1])
        parts.append(line(plane.x.start, place, plane.x.end, place, "level"))
    if mark:
        place = plane.x(mark[1])
        parts.append(line(place, plane.y.start, place, plane.y.end, "level strong"))
    for one in series:
        if len(one.values) == 1:
            ((x, y),) = one.values
            parts.append(tag("circle", cx=plane.x(x), cy=plane.y(y), r=4, class_=f"mark {one.kind}"))
        else:
            parts.append(plane.path(_thinned(one.values), f"line {one.kind}"))
    if several:
        names = [(one.name, f"mark {one.kind}") for one in series]
        parts += legend([*names, *((one[0], "mark dashed") for one in (level, mark) if one)], 13)
    write = percent if shares else plain
    said = "; ".join(f"{one.name} goes from {write(one.values[0][1])} to {write(one.values[-1][1])}" for one in series)
    return drawing(height, title, f"{said}.", *parts)


def _thinned(values: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(values) <= MAX_POINTS:
        return values
    step = len(values) / (MAX_POINTS - 1)
    return [*(values[int(place * step)] for place in range(MAX_POINTS - 1)), values[-1]]


@dataclass(frozen=True)
class Estimate:
    """A share with its interval.

    Attributes:
        name: Of the row.
        value: 0 to 1.
        ends: Of the interval, where it is known.
        kind: Class of its colour.
    """

    name: str
    value: float
    ends: tuple[float, float] | None
    kind: str


def interval_chart(title: str, rows: Sequence[Estimate]) -> Markup:
    """Draw shares with their intervals under each other."""
    low = _low_end([row.ends[0] if row.ends else row.value for row in rows])
    bottom = 14 + 40 * len(rows)
    plane = Plane(Scale(low, 1.0, 16, WIDTH - 20), Scale(0, 1, bottom, 8))
    parts = []
    for value in plane.x.ticks(5):
        parts.append(line(plane.x(value), 8, plane.x(value), bottom, "grid"))
        parts.append(label(plane.x(value), bottom + 16, percent(value, 0), "tick", "middle"))
    for place, row in enumerate(rows):
        y = 36 + 40 * place
        parts.append(label(16, y - 12, f"{cut(row.name, 30)}: {percent(row.value)}", "name", hint=row.name))
        if row.ends:
            ends = plane.x(row.ends[0]), plane.x(row.ends[1])
            parts.append(line(ends[0], y, ends[1], y, f"bar {row.kind}"))
            parts += [line(end, y - 5, end, y + 5, f"bar {row.kind}") for end in ends]
        hint = tag("title", f"{row.name}: {percent(row.value)}")
        parts.append(tag("circle", hint, cx=plane.x(row.value), cy=y, r=6, class_=f"mark {row.kind}"))
    said = "; ".join(
        f"{row.name} {percent(row.value)}"
        + (f" (95 % interval {percent(row.ends[0])} to {percent(row.ends[1])})" if row.ends else "")
        for row in rows
    )
    return drawing(bottom + 24, title, f"{said}.", *parts)


def _low_end(values: Sequence[float]) -> float:
    """Return where an axis of shares begins: at 0, or at a tenth below all values where that leaves too much empty."""
    least = min(values, default=0.0)
    return 0.0 if least < 0.35 else 0.1 * int(least * 10 - 0.5)


@dataclass(frozen=True)
class Change:
    """A share before and after.

    Attributes:
        name: Of the row.
        before: 0 to 1, None where it is not known.
        after: The same.
    """

    name: str
    before: float | None
    after: float | None


def change_chart(title: str, rows: Sequence[Change], before: str, after: str) -> Markup:
    """Draw two shares a row, joined: which way each one went.

    Args:
        title: What it is.
        rows: In the order in which they are drawn.
        before: Name of the first share.
        after: Name of the second.
    """
    bottom = 30 + ROW * len(rows)
    low = _low_end([value for row in rows for value in (row.before, row.after) if value is not None])
    x = Scale(low, 1.0, NAMES + 14, WIDTH - 20)
    parts = legend([(before, "ring one"), (after, "mark two")], 13)
    for tick in x.ticks(4):
        parts.append(line(x(tick), 24, x(tick), bottom, "grid"))
        parts.append(label(x(tick), bottom + 16, percent(tick, 0), "tick", "middle"))
    for place, row in enumerate(rows):
        y = 38 + ROW * place
        parts.append(label(NAMES, y + 4, cut(row.name, 13), "name", "end", row.name))
        if row.before is not None and row.after is not None:
            better = row.after >= row.before
            parts.append(line(x(row.before), y, x(row.after), y, "joint better" if better else "joint worse"))
        hint = f"{row.name}: {before} {percent(row.before)}, {after} {percent(row.after)}"
        for value, kind, radius in ((row.before, "ring one", 6.5), (row.after, "mark two", 5)):
            if value is not None:
                parts.append(tag("circle", tag("title", hint), cx=x(value), cy=y, r=radius, class_=kind))
    up = sum(1 for row in rows if row.before is not None and row.after is not None and row.after > row.before)
    down = sum(1 for row in rows if row.before is not None and row.after is not None and row.after < row.before)
    said = f"Of {len(rows)} rows {up} went up and {down} down; the table has the numbers."
    return drawing(bottom + 24, title, said, *parts)


def bar_chart(title: str, rows: Sequence[tuple[str, float]], unit: str) -> Markup:
    """Draw a count a row.

    Args:
        title: What it is.
        rows: Name and count, at least one.
        unit: What is counted.
    """
    most = max((value for _, value in rows), default=0.0) or 1.0
    x = Scale(0.0, most, NAMES + 8, WIDTH - 44)
    parts = []
    for place, (name, value) in enumerate(rows):
        y = 6 + ROW * place
        parts.append(label(NAMES, y + 13, cut(name, 13), "name", "end", name))
        hint = tag("title", f"{name}: {plain(value)} {unit}")
        parts.append(tag("rect", hint, x=x.start, y=y + 2, width=max(1.0, x(value) - x.start), height=14, class_="two"))
        parts.append(label(x(value) + 6, y + 13, plain(value), "tick"))
    counts = [value for _, value in rows]
    said = f"From {plain(min(counts))} to {plain(max(counts))} {unit} a row."
    return drawing(ROW * len(rows) + 10, title, said, *parts)


def heat_map(title: str, names: Sequence[str], counts: Sequence[Sequence[float | None]], unit: str) -> Markup:
    """Draw a table of counts as squares: a row each for the truth, a column each for the answer.

    Args:
        title: What it is.
        names: Of rows and columns alike.
        counts: None where it is not known.
        unit: What is counted.
    """
    side = max(20.0, min(34.0, 360.0 / len(names)))
    above = [cut(name, 9) for name in names]
    left, top = 96.0, 36.0 + 6.0 * max(map(len, above))
    width, height = left + side * len(names) + 28, top + side * len(names) + 8
    parts = [label(left + side * len(names) / 2, 14, "answered", "tick", "middle"), label(0, top - 8, "true", "tick")]
    for place, name in enumerate(names):
        middle = (place + 0.5) * side
        parts.append(label(left - 6, top + middle + 4, cut(name, 12), "name", "end", name))
        turned = label(0, 0, above[place], "name", "start", name)
        parts.append(tag("g", turned, transform=f"translate({left + middle + 4:.1f},{top - 6}) rotate(-60)"))
    for i, row in enumerate(counts):
        total = sum(value or 0 for value in row) or 1.0
        for j, value in enumerate(row):
            hint = f"{names[i]}, answered {names[j]}: {plain(value)} {unit}"
            kind = "right" if i == j else "wrong"
            parts.append(_cell(left + j * side, top + i * side, side, value, (value or 0.0) / total, kind, hint))
    said = f"{len(names)} classes; squares off the diagonal are mistakes. The list of pairs has the largest in words."
    return drawing(height, title, said, *parts, width=width)


def _cell(x: float, y: float, side: float, value: float | None, depth: float, kind: str, hint: str) -> Markup:
    """Return a square of a heat map with its number; `depth` from 0 to 1 is how strong its colour is."""
    square = {"x": x + 1, "y": y + 1, "width": side - 2, "height": side - 2, "rx": 2.0}
    parts = [tag("title", hint), tag("rect", class_="cell empty", **square)]
    if value:
        strength = 0.25 + 0.75 * min(1.0, depth)
        parts.append(tag("rect", class_=f"cell {kind}", fill_opacity=strength, **square))
        on = "count light" if strength > 0.6 else "count"
        parts.append(label(x + side / 2, y + side / 2 + 4, plain(value), on, "middle"))
    return tag("g", *parts)


@dataclass(frozen=True)
class Bin:
    """Answers of about one confidence.

    Attributes:
        confidence: Mean, 0 to 1.
        accuracy: Share that was right.
        count: How many, at least one.
    """

    confidence: float
    accuracy: float
    count: int


def reliability_chart(title: str, bins: Sequence[Bin], kind: str) -> Markup:
    """Draw how often answers of each confidence were right, with how many there were.

    Args:
        title: What it is.
        bins: Those that hold any answer.
        kind: Class of the colour.
    """
    size, left, top = 220.0, LEFT, 10.0
    plane = Plane(Scale(0, 1, left, left + size), Scale(0, 1, top + size, top))
    parts = plane.frame("confidence", "%", "%")
    parts.append(line(plane.x(0), plane.y(0), plane.x(1), plane.y(1), "level"))
    most = max((one.count for one in bins), default=1) or 1
    for one in bins:
        ends = wilson_interval(round(one.accuracy * one.count), one.count)
        if ends is not None:
            x = plane.x(one.confidence)
            parts.append(line(x, plane.y(ends[0]), x, plane.y(ends[1]), f"whisker {kind}"))
    base = top + size + 76
    for one in bins:
        hint = f"confidence {percent(one.confidence)}, right {percent(one.accuracy)}, {one.count:,} images"
        x, radius = plane.x(one.confidence), 3 + 5 * (one.count / most) ** 0.5
        parts.append(tag("circle", tag("title", hint), cx=x, cy=plane.y(one.accuracy), r=radius, class_=f"mark {kind}"))
        tall = 28 * one.count / most
        parts.append(
            tag("rect", tag("title", hint), x=x - 4, y=base - tall, width=8, height=max(1.0, tall), class_=kind)
        )
    parts.append(line(left, base, left + size, base, "axis"))
    parts.append(label(left, base + 14, f"images at each confidence, at most {most:,}", "tick"))
    said = "; ".join(
        f"at {percent(one.confidence, 0)} confidence {percent(one.accuracy, 0)} right of {one.count:,}" for one in bins
    )
    return drawing(base + 20, title, f"{said}.", *parts, width=left + size + 20)
