"""Which recipe suits these images? What `method: auto` compares, and how it decides.

Every candidate is cross-validated on the training images alone; the images a report is measured on take no part. Beside
each tuned candidate stand its mixtures with zero-shot: logits a * tuned + (1 - a) * zero-shot, which for text features
is interpolating them before they are normalised (after WiSE-FT, arXiv 2109.01903).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from npt_core.errors import Fault
from npt_core.schema import Settings, setting

AUTO = "auto"
SHARES = (0.25, 0.5, 0.75, 1.0)
FOLDS = 3

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "tip_adapter": {"method": "tip_adapter"},
    "linear_probe": {"method": "linear_probe"},
    "coop": {"method": "coop"},
    "kgcoop": {"method": "kgcoop"},
    "coop-class-specific": {"method": "coop", "method_config": {"class_specific": True}},
}
"""In the order in which they are tried: cheap ones first, so that a small time budget still buys the most."""

ZERO_SHOT = "zero_shot"


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


@dataclass(frozen=True)
class Row:
    """One line of the table `auto` chose from.

    Attributes:
        recipe: Name of the recipe.
        tuned_share: a of the mixture with zero-shot; 0 is zero-shot itself.
        accuracy: Mean over classes of each class's accuracy, cross-validated: every class counts the same.
        nll: Mean cross-entropy (nats).
    """

    recipe: str
    tuned_share: float
    accuracy: float
    nll: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


def mixed(tuned: Tensor, zero_shot: Tensor, share: float) -> Tensor:
    """Return share * tuned + (1 - share) * zero-shot, exactly the tuned logits at 1."""
    return tuned if share == 1.0 else share * tuned + (1.0 - share) * zero_shot


def row(recipe: str, share: float, logits: Tensor, labels: Tensor) -> Row:
    """Measure (n, K) cross-validated logits against (n,) labels."""
    right = (logits.argmax(dim=1) == labels).double()
    counts = torch.bincount(labels)
    hits = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, labels, right)
    present = counts > 0
    accuracy = float((hits[present] / counts[present]).mean())
    nll = float(torch.nn.functional.cross_entropy(logits.double(), labels))
    return Row(recipe, share, accuracy, nll)


def rows_of(recipe: str, tuned: Tensor, zero_shot: Tensor, labels: Tensor) -> list[Row]:
    """Measure a recipe and its mixtures with zero-shot."""
    return [row(recipe, share, mixed(tuned, zero_shot, share), labels) for share in SHARES]


def choose(table: Sequence[Row], num_images: int) -> Row:
    """Return the best row.

    Accuracies of few images differ by chance: among the rows within half a standard error of the best one, the one with
    the lowest cross-entropy is taken.
    """
    best = max(one.accuracy for one in table)
    slack = 0.5 * math.sqrt(best * (1 - best) / max(1, num_images))
    return min((one for one in table if one.accuracy >= best - slack), key=lambda one: one.nll)
