"""What every part of a tuning reports to while it works."""

from __future__ import annotations

from dataclasses import dataclass, field

from npt_core.tuning.control import Control
from npt_core.tuning.meter import Meter


def _counters() -> dict[str, int]:
    return {"images_encoded": 0, "images_cached": 0, "steps": 0}


@dataclass
class Logbook:
    """Permission to go on, progress, and what is told at the end.

    Attributes:
        control: Asked before every piece of work.
        meter: Told about every unit of work.
        warnings: For people.
        counters: See `TuneResult.counters`.
    """

    control: Control
    meter: Meter
    warnings: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=_counters)
