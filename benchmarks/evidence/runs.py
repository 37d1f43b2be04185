"""Which tunings a question needs: a run is one of them, a plan is a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

from benchmarks.evidence.sets import OPEN, REPORTED

AUTO = "auto"
AUTO_NEW = "auto-new-names"
METHODS: Mapping[str, Mapping[str, Any]] = {
    "zero_shot": {"method": "zero_shot"},
    "coop": {"method": "coop", "method_config": {"n_ctx": 16, "ctx_init": "random"}},
    "coop-words": {"method": "coop", "method_config": {"n_ctx": 4}},
    "coop-class-specific": {"method": "coop", "method_config": {"n_ctx": 16, "class_specific": True}},
    "kgcoop": {"method": "kgcoop", "method_config": {"n_ctx": 4}},
    "prograd": {"method": "prograd", "method_config": {"n_ctx": 16, "ctx_init": "random"}},
    "cocoop": {"method": "cocoop"},
    "maple": {"method": "maple"},
    "promptsrc": {"method": "promptsrc"},
    "vpt": {"method": "vpt"},
    "upt": {"method": "upt"},
    "dpt": {"method": "dpt"},
    "linear_probe": {"method": "linear_probe"},
    "tip_adapter": {"method": "tip_adapter"},
    AUTO: {"method": "auto"},
    AUTO_NEW: {"method": "auto", "method_config": {"new_classes": True}},
}
"""Methods as they are measured, with their papers' contexts: 16 vectors from noise (CoOp, ProGrad) or words."""

NO_NEW_NAMES = ("linear_probe", "tip_adapter", "coop-class-specific", AUTO)
FIXED_REGULARIZER: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("linear_probe", "tip_adapter", "zero_shot"), ("none",)),
    **dict.fromkeys((AUTO, AUTO_NEW), ("npt",)),
}

HEADLINE = ("coop", "kgcoop", "cocoop", "maple")
REGULARIZERS = ("none", "npt", "cpt")
TAUS = (1.0, 0.25, 0.06)
SHOTS = (1, 2, 4, 8, 16)
MAX_SHOTS = 16

SHORT = 50
"""Epochs of the plans that are not the headline: what two cores can do in a quarter of an hour."""

SWEEP_SEED = 100
"""Sweeps draw other training sets than what is reported."""

NPT_WEIGHTS = ((1, 1), (3, 3), (10, 10), (30, 30), (0, 10), (10, 0))
CPT_FACTORS = (1, 3, 10)
RATES: Mapping[str, tuple[float, ...]] = {
    "coop": (0.002, 0.006, 0.017),
    "kgcoop": (0.002, 0.006, 0.017),
    "cocoop": (0.002, 0.006, 0.017),
    "maple": (0.0035, 0.01, 0.03),
}
"""The published rate, the published rate times 100 over the demo backbone's logit scale, and one between."""

WEIGHED = {"coop": (0.002, 0.006, 0.017), "maple": (0.0035,)}
"""Methods, and their rates, for which the weights of the regularisers are compared."""


@dataclass(frozen=True)
class Run:
    """One tuning.

    Attributes:
        method: A name of `METHODS`, or a registered method with its defaults.
        weights: Settings of the regulariser, "name=value;name=value"; empty for its defaults.
        seed: Of the draw of the training set and of the training; the draw's is this plus `DRAW_SEED`.
        epochs: 0 for the method's own.
        lr: 0 for the method's own.
    """

    protocol: str
    dataset: str
    method: str
    regularizer: str = "none"
    tau: float = 1.0
    shots: int = MAX_SHOTS
    seed: int = 0
    weights: str = ""
    epochs: int = 0
    lr: float = 0.0

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it this run, as the CSV has it."""
        return tuple(str(value) for value in asdict(self).values())

    @property
    def settings(self) -> dict[str, float]:
        """The regulariser's settings."""
        pairs = (pair.split("=") for pair in self.weights.split(";") if pair)
        return {name: float(value) for name, value in pairs}


KEY = tuple(field.name for field in fields(Run))
DRAW_SEED = 1000


@dataclass(frozen=True)
class Scope:
    """What a plan runs over; plans take what they need of it."""

    datasets: Sequence[str]
    methods: Sequence[str]
    regularizers: Sequence[str]
    taus: Sequence[float]
    seeds: int
    epochs: int


def headline(scope: Scope) -> Iterator[Run]:
    """Base-to-novel under imbalance. Seeds outermost: what is there when it is stopped is balanced."""
    for seed, dataset, tau, method, regularizer in product(
        range(scope.seeds), scope.datasets, scope.taus, scope.methods, scope.regularizers
    ):
        yield Run("base-to-novel", dataset, method, regularizer, tau, seed=seed, epochs=scope.epochs)


def few_shot_curve(scope: Scope) -> Iterator[Run]:
    """Accuracy on all classes by images a class."""
    for seed, dataset, shots, method, regularizer in product(
        range(scope.seeds), scope.datasets, SHOTS, scope.methods, scope.regularizers
    ):
        yield Run("few-shot", dataset, method, regularizer, 1.0, shots, seed, epochs=scope.epochs)


def imbalance(scope: Scope) -> Iterator[Run]:
    """Accuracy on all classes by tau."""
    for seed, dataset, tau, method, regularizer in product(
        range(scope.seeds), scope.datasets, scope.taus, scope.methods, scope.regularizers
    ):
        yield Run("imbalance", dataset, method, regularizer, tau, seed=seed, epochs=scope.epochs)


def cross_dataset(scope: Scope) -> Iterator[Run]:
    """A prompt of one set on the others."""
    for seed, dataset, method, regularizer in product(
        range(scope.seeds), scope.datasets, scope.methods, scope.regularizers
    ):
        yield Run("cross-dataset", dataset, method, regularizer, 1.0, seed=seed, epochs=scope.epochs)


def rates(scope: Scope) -> Iterator[Run]:
    """Learning rates on the open sets, without a regulariser and with NPT's default weights."""
    for seed, dataset, tau, method in product(range(scope.seeds), scope.datasets, scope.taus, scope.methods):
        for lr, regularizer in product(RATES[method], ("none", "npt")):
            yield Run(
                "base-to-novel", dataset, method, regularizer, tau, seed=SWEEP_SEED + seed, epochs=scope.epochs, lr=lr
            )


def sweep(scope: Scope) -> Iterator[Run]:
    """Weights of the regularisers on the open sets."""
    for seed, dataset, tau, method in product(range(scope.seeds), scope.datasets, scope.taus, scope.methods):
        for lr in WEIGHED[method]:
            common = {"tau": tau, "seed": SWEEP_SEED + seed, "epochs": scope.epochs, "lr": lr}
            yield Run("base-to-novel", dataset, method, "none", **common)
            for lmc, mmi in NPT_WEIGHTS:
                weights = f"lambda_lmc={lmc};lambda_mmi={mmi}"
                yield Run("base-to-novel", dataset, method, "npt", weights=weights, **common)
            for factor in CPT_FACTORS:
                weights = f"lambda_tetf={0.25 * factor:g};lambda_cc={0.15 * factor:g};lambda_rs={0.1 * factor:g}"
                yield Run("base-to-novel", dataset, method, "cpt", weights=weights, **common)


def defaults(scope: Scope) -> Iterator[Run]:
    """What should `POST /tune` do when nobody says? Recipes and auto, on all classes and base-to-novel."""
    draws = ((MAX_SHOTS, 1.0), (MAX_SHOTS, 0.06), (4, 1.0))
    for seed, dataset, (shots, tau), method in product(range(scope.seeds), scope.datasets, draws, scope.methods):
        for protocol in ("imbalance",) if method in NO_NEW_NAMES else ("imbalance", "base-to-novel"):
            for regularizer in FIXED_REGULARIZER.get(method, scope.regularizers):
                yield Run(protocol, dataset, method, regularizer, tau, shots, seed, epochs=scope.epochs)


PLANS = {
    "headline": headline,
    "few-shot": few_shot_curve,
    "imbalance": imbalance,
    "cross-dataset": cross_dataset,
    "rates": rates,
    "sweep": sweep,
    "defaults": defaults,
}
SCOPES: Mapping[str, Scope] = {
    "headline": Scope(tuple(REPORTED), HEADLINE, REGULARIZERS, TAUS, 5, 0),
    "few-shot": Scope(tuple(REPORTED), ("coop", "maple"), REGULARIZERS, (1.0,), 1, SHORT),
    "imbalance": Scope(tuple(REPORTED), ("coop", "maple"), REGULARIZERS, TAUS, 1, SHORT),
    "cross-dataset": Scope(tuple(REPORTED), ("coop", "maple"), REGULARIZERS, (1.0,), 1, SHORT),
    "rates": Scope(tuple(OPEN), tuple(RATES), ("none", "npt"), (1.0, 0.06), 2, 0),
    "sweep": Scope(tuple(OPEN), tuple(WEIGHED), REGULARIZERS, (1.0, 0.06), 2, 0),
    "defaults": Scope(
        tuple(REPORTED),
        ("zero_shot", "coop", "coop-words", "kgcoop", "linear_probe", "tip_adapter", AUTO, AUTO_NEW),
        ("none", "npt"),
        (1.0,),
        1,
        SHORT,
    ),
}
