"""The tables of docs/results.md, one function each, as lines of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.evidence.statistics import Interval, Row, differences, interval, spearman

NAMES = {"npt": "NPT", "cpt": "CPT", "none": "none"}


def table(head: Sequence[str], body: Iterable[Sequence[Any]]) -> list[str]:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return [*lines, *(f"| {' | '.join(map(str, cells))} |" for cells in body)]


def distinct(found: Sequence[Row], name: str) -> list[Any]:
    """Return the values of a column in the order of their first appearance; numbers falling."""
    values = list(dict.fromkeys(one[name] for one in found))
    return sorted(values, reverse=True) if values and isinstance(values[0], float) else values


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{np.mean(values):.3f}"


def tau_name(tau: float) -> str:
    """Heading of a column."""
    return f"τ = {tau:g}"


def bold(value: Interval) -> str:
    """An interval, in bold where it excludes zero."""
    return f"**{value}**" if value.without_zero else str(value)


def by_tau(found: Sequence[Row], numbers: Sequence[tuple[str, str]]) -> list[str]:
    """Differences of both regularisers to none, for several numbers, at each tau."""
    taus = distinct(found, "tau")
    body = []
    for number, title in numbers:
        for kind in ("npt", "cpt"):
            cells = [difference(found, kind, number, lambda one, tau=tau: one["tau"] == tau) for tau in taus]
            body.append([f"{NAMES[kind]} − none, {title}", *cells])
    return table(["mean difference", *map(tau_name, taus)], body)


def difference(found: Sequence[Row], kind: str, number: str, chosen: Callable[[Row], bool]) -> str:
    """One cell: the paired difference of a regulariser to none."""
    pairs = differences(found, lambda one: one["regularizer"] == kind and chosen(one), number)
    return bold(interval(pairs)) if pairs else "–"


def by_column(found: Sequence[Row], column: str, number: str) -> list[str]:
    """Differences by another column (method, data set), at each tau."""
    taus = distinct(found, "tau")
    body = []
    for value in distinct(found, column):
        for kind in ("npt", "cpt"):
            cells = [
                difference(found, kind, number, lambda one, v=value, t=tau: one[column] == v and one["tau"] == t)
                for tau in taus
            ]
            body.append([value, f"{NAMES[kind]} − none", *cells])
    return table([column, number.upper() if number == "h" else number, *map(tau_name, taus)], body)


def levels(found: Sequence[Row], number: str) -> list[str]:
    """Mean ± standard deviation by set, method and tau, with zero-shot."""
    body = []
    for name in distinct(found, "dataset"):
        for tau in distinct(found, "tau"):
            mine = [one for one in found if one["dataset"] == name and one["tau"] == tau]
            for method in distinct(mine, "method"):
                some = [one for one in mine if one["method"] == method]
                cells = [
                    spread([one[number] for one in some if one["regularizer"] == kind])
                    for kind in ("none", "npt", "cpt")
                ]
                body.append([name, f"{tau:g}", method, f"{some[0][f'zero_{number}']:.3f}", *cells])
    return table(["set", "τ", "method", "zero-shot", "none", "NPT", "CPT"], body)


def geometry(found: Sequence[Row]) -> list[str]:
    """Spearman's rho of geometry with H within each set: over all runs, and within method and tau."""
    body = []
    for name in distinct(found, "dataset"):
        mine = [one for one in found if one["dataset"] == name]
        for column, sign, title in (("equiangularity", -1, "nearness to equal angles"), ("duality", 1, "duality")):
            usable = [one for one in mine if np.isfinite(one[column])]
            first = np.array([sign * one[column] for one in usable])
            overall = bold(spearman(first, np.array([one["h"] for one in usable])))
            body.append([name, title, overall, within(usable, column, sign)])
    return table(["set", "geometry", "ρ with H, all runs", "ρ, method and τ held fixed"], body)


def within(found: Sequence[Row], column: str, sign: int) -> str:
    """Rho of what is left when the mean of every (method, tau) cell is taken away: neither can then make it up."""
    first, second = [], []
    for method in distinct(found, "method"):
        for tau in distinct(found, "tau"):
            cell = [one for one in found if one["method"] == method and one["tau"] == tau]
            if len(cell) > 2:
                a = np.array([sign * one[column] for one in cell])
                b = np.array([one["h"] for one in cell])
                first.extend(a - a.mean())
                second.extend(b - b.mean())
    return bold(spearman(np.array(first), np.array(second)))


def sweep(found: Sequence[Row]) -> list[str]:
    """Mean H and base accuracy by method, rate and weights, over sets and seeds."""
    body = []
    taus = distinct(found, "tau")
    for method in distinct(found, "method"):
        for lr in sorted(distinct([one for one in found if one["method"] == method], "lr")):
            mine = [one for one in found if one["method"] == method and one["lr"] == lr]
            for kind, weights in dict.fromkeys((one["regularizer"], one["weights"]) for one in mine):
                some = [one for one in mine if (one["regularizer"], one["weights"]) == (kind, weights)]
                cells = []
                for number in ("h", "base"):
                    for tau in taus:
                        cells.append(f"{np.mean([one[number] for one in some if one['tau'] == tau]):.3f}")
                told = weights.replace("lambda_", "").replace(";", ", ").replace("=", " ") or "–"
                body.append([method, f"{lr:g}" if lr else "own", NAMES[kind], told, *cells])
    head = [f"{title}, {tau_name(tau)}" for title in ("H", "base") for tau in taus]
    return table(["method", "rate", "regulariser", "weights", *head], body)


def shots_curve(found: Sequence[Row]) -> list[str]:
    """Accuracy on all classes by images a class, mean ± standard deviation over sets and seeds of the set means."""
    shots = sorted(distinct(found, "shots"))
    body = []
    for method in distinct(found, "method"):
        for kind in distinct([one for one in found if one["method"] == method], "regularizer"):
            cells = []
            for count in shots:
                some = [o for o in found if (o["method"], o["regularizer"], o["shots"]) == (method, kind, count)]
                cells.append(over_seeds(some, "all"))
            body.append([method, NAMES[kind], *cells])
    zero = f"{np.mean([one['zero_all'] for one in found]):.3f}"
    body.insert(0, ["zero-shot", "", *[zero] * len(shots)])
    return table(["method", "regulariser", *(f"{int(count)}" for count in shots)], body)


def over_seeds(found: Sequence[Row], number: str) -> str:
    """Mean over sets, ± standard deviation over seeds of that mean."""
    if not found:
        return "–"
    seeds = distinct(found, "seed")
    return spread([float(np.mean([one[number] for one in found if one["seed"] == seed])) for seed in seeds])


def all_classes_by_tau(found: Sequence[Row]) -> list[str]:
    """Accuracy on all classes, and on the third with the fewest images, by tau."""
    taus = distinct(found, "tau")
    body = []
    for method in distinct(found, "method"):
        for kind in distinct([one for one in found if one["method"] == method], "regularizer"):
            cells = []
            for number in ("all", "few"):
                for tau in taus:
                    some = [o for o in found if (o["method"], o["regularizer"], o["tau"]) == (method, kind, tau)]
                    cells.append(over_seeds(some, number))
            body.append([method, NAMES[kind], *cells])
    head = [f"{title}, {tau_name(tau)}" for title in ("all", "rarest third") for tau in taus]
    return table(["method", "regulariser", *head], body)


def carried_over(found: Sequence[Row]) -> list[str]:
    """Accuracy on the sets that a prompt was not tuned on, minus zero-shot there."""
    fixed = {"all"}
    body = []
    for method in distinct(found, "method"):
        for kind in distinct(found, "regularizer"):
            some = [one for one in found if one["method"] == method and one["regularizer"] == kind]
            pairs = [
                (one["dataset"], one["seed"], one[name[5:]] - one[name])
                for one in some
                for name in one
                if name.startswith("zero_") and name[5:] not in fixed and name[5:] in one and name != "zero_shot"
            ]
            own = [(one["dataset"], one["seed"], one["all"] - one["zero_all"]) for one in some]
            body.append([method, NAMES[kind], bold(interval(own)), bold(interval(pairs))])
    return table(["method", "regulariser", "own set − zero-shot", "other sets − zero-shot"], body)


def defaults(found: Sequence[Row]) -> list[str]:
    """Mean over sets and seeds for each recipe: all classes by shots and tau, and H."""
    columns = [
        (protocol, number, shots, tau)
        for protocol, number in (("imbalance", "all"), ("base-to-novel", "h"))
        for shots, tau in ((16.0, 1.0), (16.0, 0.06), (4.0, 1.0))
    ]
    body = []
    for method in distinct(found, "method"):
        for kind in distinct([one for one in found if one["method"] == method], "regularizer"):
            mine = [one for one in found if (one["method"], one["regularizer"]) == (method, kind)]
            cells = [
                over_seeds([o for o in mine if (o["protocol"], o["shots"], o["tau"]) == (protocol, shots, tau)], number)
                for protocol, number, shots, tau in columns
            ]
            body.append([method, NAMES[kind], *cells])
    titles = {"all": "all classes", "h": "H"}
    head = [f"{titles[number]}, {shots:g} images, τ {tau:g}" for _, number, shots, tau in columns]
    return table(["recipe", "regulariser", *head], body)
