"""Which recipe suits these images? How `method: auto` compares and decides.

Every candidate is cross-validated on the training images alone; the images a report is measured on take no part. Beside
each tuned candidate stand its mixtures with zero-shot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from npt_core.methods import get_method
from npt_core.mixture import mixed
from npt_core.tuning.recipes import RECIPES, AutoConfig

if TYPE_CHECKING:
    from npt_core.tuning.config import TuneConfig
    from npt_core.tuning.protocols import Fold

SHARES = (0.25, 0.5, 0.75, 1.0)
FOLDS = 3
ZERO_SHOT = "zero_shot"


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


@dataclass
class Selection:
    """What `select` came to.

    Attributes:
        config: The request with the chosen recipe in the place of auto.
        table: JSON-able: what was compared, what was chosen, what was left out for want of time.
        warnings: For people.
    """

    config: TuneConfig
    table: dict[str, Any]
    warnings: list[str]


def as_recipe(requested: TuneConfig, name: str, share: float = 1.0) -> TuneConfig:
    """Return the request with a recipe (or `zero_shot`) in the place of auto."""
    recipe: dict[str, Any] = {"method_config": {}, **RECIPES.get(name, {"method": ZERO_SHOT})}
    if not get_method(recipe["method"]).moves_features:
        recipe |= {"regularizer": "none", "regularizer_config": {}}
    return replace(requested, **recipe, tuned_share=share)


def select(
    requested: TuneConfig,
    folds: Sequence[Fold],
    labels: dict[int, int],
    zero_shot: dict[int, Tensor],
    attempt: Callable[[TuneConfig, str, int], tuple[Tensor, float]],
) -> Selection:
    """Cross-validate the recipes within the time budget.

    Args:
        requested: A config of method auto.
        folds: Each image is tested in one of them.
        labels: Class of every image by its position in the data set.
        zero_shot: (K,) logits of every image.
        attempt: Tunes a config on the given fold; its logits on the fold's test images and the seconds it took. The
            text is the recipe's name.
    """
    auto = AutoConfig.from_dict(requested.method_config)
    order = [i for fold in folds for i in fold.test]
    truth, baseline = torch.tensor([labels[i] for i in order]), torch.stack([zero_shot[i] for i in order])
    table, left_out, spent = [row(ZERO_SHOT, 0.0, baseline, truth)], [], 0.0
    for name in auto.recipes():
        config, parts, took = as_recipe(requested, name), [], 0.0
        for number in range(len(folds)):
            expected = took * len(folds) / max(1, number)
            if len(table) > 1 and spent + expected > auto.time_budget_s:
                break
            logits, seconds = attempt(config, name, number)
            parts.append(logits)
            took += seconds
        spent += took
        if len(parts) < len(folds):
            left_out.append(name)
        else:
            table += rows_of(name, torch.cat(parts), baseline, truth)
    chosen, warnings = choose(table, len(order)), []
    if chosen.recipe == ZERO_SHOT:
        warnings.append("No tuned candidate was better than zero-shot in cross-validation: zero-shot it is.")
    if left_out:
        warnings.append(
            f"auto had {auto.time_budget_s:g} s to choose and did not try {', '.join(left_out)}: raise time_budget_s "
            "to do so."
        )
    return Selection(
        as_recipe(requested, chosen.recipe, chosen.tuned_share if chosen.recipe != ZERO_SHOT else 1.0),
        {
            "chosen": chosen.to_dict(),
            "table": [one.to_dict() for one in table],
            "left_out": left_out,
            "folds": len(folds),
            "images": len(order),
            "seconds": round(spent, 3),
        },
        warnings,
    )
