"""What `method: auto` may try and spend. No torch here: a config is read before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from npt_core.errors import Fault
from npt_core.schema import Settings, setting

AUTO = "auto"
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "tip_adapter": {"method": "tip_adapter"},
    "linear_probe": {"method": "linear_probe"},
    "coop": {"method": "coop"},
    "kgcoop": {"method": "kgcoop"},
    "coop-class-specific": {"method": "coop", "method_config": {"class_specific": True}},
}
"""In the order in which they are tried: cheap ones first, so that a small time budget still buys the most."""


@dataclass(frozen=True)
class AutoConfig(Settings):
    """What `auto` may spend and try."""

    time_budget_s: float = setting(
        60.0, gt=0, le=86_400, doc="Seconds for choosing; a candidate that would take longer is left out and named."
    )
    candidates: tuple[str, ...] = setting(
        tuple(RECIPES), max_length=len(RECIPES), doc=f"Which recipes to compare with zero-shot: {', '.join(RECIPES)}."
    )
    new_classes: bool = setting(False, doc="Only recipes that can classify among new class names later.")

    def conflicts(self, mistyped: frozenset[str]) -> Iterable[Fault]:
        """Only known recipes."""
        for number, name in enumerate(() if "candidates" in mistyped else self.candidates):
            if name not in RECIPES:
                yield Fault(f"candidates[{number}]", f"there is no recipe {name!r}; use {', '.join(RECIPES)}")

    def recipes(self) -> dict[str, Mapping[str, Any]]:
        """Return what is tried, in order."""
        wanted = {name: recipe for name, recipe in RECIPES.items() if name in self.candidates}
        if self.new_classes:
            return {name: recipe for name, recipe in wanted.items() if name in ("coop", "kgcoop")}
        return wanted
