"""The plots of docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.evidence.statistics import Row, differences, interval
from benchmarks.evidence.tables import NAMES, distinct, tau_name

COLOURS = {"none": "#7a7a7a", "npt": "#1f6fb4", "cpt": "#c8641e"}
DPI = 120


def difference_plot(found: Sequence[Row], path: Path) -> None:
    """Differences in H with their intervals: one panel a tau, one line a method, all of them at the top."""
    taus, methods = distinct(found, "tau"), distinct(found, "method")
    figure, axes = plt.subplots(1, len(taus), figsize=(3.2 * len(taus), 2.8), sharex=True, sharey=True, squeeze=False)
    for axis, tau in zip(axes[0], taus, strict=True):
        for place, method in enumerate([None, *methods]):
            for shift, kind in ((-0.13, "npt"), (0.13, "cpt")):
                some = [one for one in found if one["tau"] == tau and method in (None, one["method"])]
                pairs = differences(some, lambda one, k=kind: one["regularizer"] == k, "h")
                if not pairs:
                    continue
                value = interval(pairs)
                axis.errorbar(
                    value.mean,
                    place + shift,
                    xerr=[[value.mean - value.low], [value.high - value.mean]],
                    fmt="o",
                    color=COLOURS[kind],
                    markersize=4,
                    capsize=2,
                    label=NAMES[kind] if place == 0 else None,
                )
        axis.axvline(0, color="#444444", linewidth=0.8)
        axis.set_title(tau_name(tau), fontsize=10)
        axis.set_xlabel("difference in H", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0][0].set_yticks(range(len(methods) + 1), ["all", *methods])
    axes[0][0].invert_yaxis()
    axes[0][-1].legend(fontsize=8, loc="lower right")
    save(figure, path)


def geometry_plot(found: Sequence[Row], path: Path) -> None:
    """H against equiangularity and duality, one column a set, one dot a run."""
    sets = distinct(found, "dataset")
    figure, axes = plt.subplots(2, len(sets), figsize=(3 * len(sets), 5), sharey="col", squeeze=False)
    for column, name in enumerate(sets):
        mine = [one for one in found if one["dataset"] == name]
        for row, number in enumerate(("equiangularity", "duality")):
            axis = axes[row][column]
            for kind in ("none", "npt", "cpt"):
                some = [one for one in mine if one["regularizer"] == kind]
                across, up = [one[number] for one in some], [one["h"] for one in some]
                axis.scatter(across, up, s=9, alpha=0.6, color=COLOURS[kind], label=NAMES[kind])
            axis.set_xlabel("deviation from equal angles" if row == 0 else "duality", fontsize=9)
            axis.tick_params(labelsize=8)
        axes[0][column].set_title(name, fontsize=10)
    for row in axes:
        row[0].set_ylabel("H", fontsize=9)
    axes[0][0].legend(fontsize=8)
    save(figure, path)


def curve_plot(found: Sequence[Row], path: Path) -> None:
    """Accuracy on all classes by images a class, one panel a set."""
    sets = distinct(found, "dataset")
    figure, axes = plt.subplots(1, len(sets), figsize=(3 * len(sets), 2.8), squeeze=False)
    styles = dict(zip(distinct(found, "method"), ("-", "--", ":", "-."), strict=False))
    for axis, name in zip(axes[0], sets, strict=True):
        mine = [one for one in found if one["dataset"] == name]
        shots = sorted(distinct(mine, "shots"))
        for method, style in styles.items():
            for kind in ("none", "npt", "cpt"):
                values = [
                    [o["all"] for o in mine if (o["method"], o["regularizer"], o["shots"]) == (method, kind, count)]
                    for count in shots
                ]
                if not all(values):
                    continue
                axis.errorbar(
                    shots,
                    [np.mean(some) for some in values],
                    yerr=[np.std(some, ddof=1) if len(some) > 1 else 0 for some in values],
                    color=COLOURS[kind],
                    linestyle=style,
                    capsize=2,
                    linewidth=1,
                    label=f"{method}, {NAMES[kind]}",
                )
        axis.axhline(mine[0]["zero_all"], color="#444444", linewidth=0.8, label="zero-shot")
        axis.set_xscale("log", base=2)
        axis.set_xticks(shots, [f"{count:g}" for count in shots])
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("images a class", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0][0].set_ylabel("accuracy", fontsize=9)
    axes[0][-1].legend(fontsize=6)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Write a PNG and forget the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
