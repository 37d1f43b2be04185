"""Which recipe suits these images, and how much of its answer? How candidates are compared and one is chosen.

Every candidate is cross-validated on the training images alone; the images a report is measured on take no part. Beside
each tuned candidate stand its mixtures with zero-shot. `method: auto` compares recipes at a few shares,
`tuned_share: auto` the shares of one method.
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
"""Of each recipe that auto compares."""

SHARE_GRID = tuple(tenth / 10 for tenth in range(11))
"""Of one method whose share is chosen; 0 is zero-shot itself."""

ZERO_SHOT = "zero_shot"


@dataclass(frozen=True)
class Row:
    """One line of the table that was chosen from.

    Attributes:
        recipe: Name of the recipe, or of the method where only its share is chosen.
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


def rows_of(
    recipe: str, tuned: Tensor, zero_shot: Tensor, labels: Tensor, shares: Sequence[float] = SHARES
) -> list[Row]:
    """Measure the mixtures of (n, K) tuned and zero-shot logits."""
    return [row(recipe, share, mixed(tuned, zero_shot, share), labels) for share in shares]


def choose(table: Sequence[Row], num_images: int) -> Row:
    """Return the best row.

    Accuracies of few images differ by chance: among the rows within half a standard error of the best one, the one with
    the lowest cross-entropy is taken.
    """
    best = max(one.accuracy for one in table)
    slack = 0.5 * math.sqrt(best * (1 - best) / max(1, num_images))
    return min((one for one in table if one.accuracy >= best - slack), key=lambda one: one.nll)


@dataclass(frozen=True)
class TrialImages:
    """The training images that candidates are compared on, in the order of the folds' test parts.

    Attributes:
        folds: A candidate is tuned on `train` and answers for `test`.
        labels: (n,) classes.
        zero_shot: (n, K) logits.
    """

    folds: tuple[Fold, ...]
    labels: Tensor
    zero_shot: Tensor


Attempt = Callable[["TuneConfig", str, int], tuple[Tensor, float]]
"""Tunes a config, called by its name, on the fold of that number; logits on the fold's test images and the seconds it
took."""


@dataclass
class Selection:
    """What `select` or `select_share` came to.

    Attributes:
        config: The request with the chosen recipe in the place of auto; as it was where only the share was chosen.
        chosen: The best row.
        table: JSON-able: what was compared, what was chosen, what was left out for want of time.
        warnings: For people.
    """

    config: TuneConfig
    chosen: Row
    table: dict[str, Any]
    warnings: list[str]


def as_recipe(requested: TuneConfig, name: str, share: float = 1.0) -> TuneConfig:
    """Return the request with a recipe (or `zero_shot`) in the place of auto."""
    recipe: dict[str, Any] = {"method_config": {}, **RECIPES.get(name, {"method": ZERO_SHOT})}
    if not get_method(recipe["method"]).moves_features:
        recipe |= {"regularizer": "none", "regularizer_config": {}}
    return replace(requested, **recipe, tuned_share=share)


def select(requested: TuneConfig, images: TrialImages, attempt: Attempt) -> Selection:
    """Cross-validate the recipes within the time budget.

    Args:
        requested: A config of method auto.
        images: What they are compared on.
        attempt: Tunes a recipe on one fold.
    """
    auto = AutoConfig.from_dict(requested.method_config)
    folds = len(images.folds)
    table, left_out, spent = [row(ZERO_SHOT, 0.0, images.zero_shot, images.labels)], [], 0.0
    for name in auto.recipes():
        config, parts, took = as_recipe(requested, name), [], 0.0
        for number in range(folds):
            expected = took * folds / max(1, number)
            if len(table) > 1 and spent + expected > auto.time_budget_s:
                break
            logits, seconds = attempt(config, name, number)
            parts.append(logits)
            took += seconds
        spent += took
        if len(parts) < folds:
            left_out.append(name)
        else:
            table += rows_of(name, torch.cat(parts), images.zero_shot, images.labels)
    chosen, warnings = choose(table, len(images.labels)), []
    if chosen.recipe == ZERO_SHOT:
        warnings.append("No tuned candidate was better than zero-shot in cross-validation: zero-shot it is.")
    if left_out:
        warnings.append(
            f"auto had {auto.time_budget_s:g} s to choose and did not try {', '.join(left_out)}: raise time_budget_s "
            "to do so."
        )
    config = as_recipe(requested, chosen.recipe, chosen.tuned_share if chosen.recipe != ZERO_SHOT else 1.0)
    return Selection(config, chosen, _told("method", chosen, table, images, spent, left_out), warnings)


def select_share(config: TuneConfig, images: TrialImages, attempt: Attempt) -> Selection:
    """Cross-validate the method once and choose the share of its answer from `SHARE_GRID`.

    Args:
        config: Of any method that learns.
        images: What the shares are compared on.
        attempt: Tunes the config on one fold.
    """
    parts, spent = [], 0.0
    for number in range(len(images.folds)):
        logits, seconds = attempt(config, config.method, number)
        parts.append(logits)
        spent += seconds
    table = rows_of(config.method, torch.cat(parts), images.zero_shot, images.labels, SHARE_GRID)
    chosen, warnings = choose(table, len(images.labels)), []
    if chosen.tuned_share == 0.0:
        warnings.append(
            f"No share of what {config.method!r} learned was better than zero-shot in cross-validation on "
            f"{len(images.labels)} images: tuned_share is 0, and the model answers as zero-shot does."
        )
    return Selection(config, chosen, _told("tuned_share", chosen, table, images, spent, []), warnings)


def _told(
    what: str, chosen: Row, table: Sequence[Row], images: TrialImages, seconds: float, left_out: Sequence[str]
) -> dict[str, Any]:
    """Return what the report says of a choice."""
    return {
        "chooses": what,
        "chosen": chosen.to_dict(),
        "table": [one.to_dict() for one in table],
        "left_out": list(left_out),
        "folds": len(images.folds),
        "images": len(images.labels),
        "seconds": round(seconds, 3),
    }
