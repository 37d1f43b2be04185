"""Drawing in SVG: escaped elements, scales, axes. Colours are classes that the page's style sheet fills in.

Charts are drawn about 320 units wide, the width of a phone, so that their text stays readable there without scaling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 320.0
"""Units of the view box that a chart has across, and about as many pixels."""


def tag(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """Return an element. Children that are no `Markup`, and every attribute, are escaped.

    Args:
        name: Of the element.
        children: Text or elements.
        attributes: `_` reads as `-`, a trailing one is dropped (`class_`); numbers are rounded, None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>")  # noqa: S704 - every part was escaped above


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def drawing(height: float, title: str, description: str, *parts: Markup, width: float = WIDTH) -> Markup:
    """Return an `svg` element that says in words what it shows.

    Args:
        height: Units of the view box.
        title: What it is.
        description: What can be seen on it, for those who cannot see it.
        parts: What is drawn.
        width: Units of the view box.
    """
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *parts,
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        role="img",
        class_="wide" if width > 1.25 * WIDTH else None,
        width=width,
        height=height,
    )


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "start", hint: str | None = None) -> Markup:
    """Return a line of text.

    Args:
        x: Where it is anchored.
        y: Its baseline.
        text: The text.
        kind: Classes of its style.
        anchor: `start`, `middle` or `end`.
        hint: Shown when it is pointed at, for text that was cut.
    """
    inside: tuple[str | Markup, ...] = (text,) if hint is None or hint == text else (text, tag("title", hint))
    return tag("text", *inside, x=x, y=y, class_=kind or None, text_anchor=None if anchor == "start" else anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


@dataclass(frozen=True)
class Scale:
    """A linear map of values to places on the drawing.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Place of `low`.
        end: Place of `high`.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value; values beyond the ends are drawn at them."""
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def ticks(self, about: int = 4) -> list[float]:
        """Return round values between the ends."""
        return ticks(self.low, self.high, about)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return about so many round values from `low` to `high`: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low
    if not 1e-300 < span < 1e300:
        return [low]
    rough = span / max(1, about)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= rough * 0.999), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def rounded_range(values: Sequence[float], *, floor: float | None = None) -> tuple[float, float]:
    """Return ends of an axis that hold all values with a little air.

    Args:
        values: What is drawn.
        floor: The lower end does not go below this.
    """
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
    low -= air
    return (low if floor is None else max(floor, low)), high + air


@dataclass(frozen=True)
class Plane:
    """A pair of axes.

    Attributes:
        x: Across; `start` is the left end.
        y: Up; `start` is the lower end.
    """

    x: Scale
    y: Scale

    def frame(self, x_title: str, y_format: str, x_format: str = "{:g}") -> list[Markup]:
        """Return grid, ticks and the title of the lower axis.

        Args:
            x_title: Name and unit of the lower axis.
            y_format: How values of the left axis are written; `%` in the end multiplies by 100.
            x_format: The same of the lower axis.
        """
        bottom, left, right = self.y.start, self.x.start, self.x.end
        parts = []
        for value in self.y.ticks():
            place = self.y(value)
            parts.append(line(left, place, right, place, "grid"))
            parts.append(label(left - 6, place + 4, _written(value, y_format), "tick", "end"))
        for value in self.x.ticks(5):
            parts.append(label(self.x(value), bottom + 16, _written(value, x_format), "tick", "middle"))
        parts.append(line(left, bottom, right, bottom, "axis"))
        parts.append(label((left + right) / 2, bottom + 32, x_title, "tick", "middle"))
        return parts

    def path(self, values: Sequence[tuple[float, float]], kind: str) -> Markup:
        """Return a line through points."""
        points = " ".join(f"{_short(self.x(x))},{_short(self.y(y))}" for x, y in values)
        return tag("polyline", points=points, class_=kind)


def _written(value: float, pattern: str) -> str:
    if pattern.endswith("%"):
        return f"{100 * value:g}%"
    return pattern.format(0.0 if value == 0 else value).replace("-", "\N{MINUS SIGN}")


def legend(entries: Sequence[tuple[str, str]], y: float, x: float = 0.0) -> list[Markup]:
    """Return marks with their names, one after the other.

    Args:
        entries: (name, classes of the mark).
        y: Baseline.
        x: Left end.
    """
    parts = []
    for name, kind in entries:
        parts.append(tag("circle", cx=x + 5, cy=y - 4, r=4.5, class_=kind))
        parts.append(label(x + 14, y, name, "tick"))
        x += 26 + 6.6 * len(name)
    return parts
