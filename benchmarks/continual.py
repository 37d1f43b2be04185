"""What does going on from a model cost its classes, and what keeps them? Half of the classes first, then the others.

    python -m benchmarks.continual --open        the sets that the default was chosen on
    python -m benchmarks.continual               the sets that are reported, some minutes on two cores

A model is tuned on at most 16 images of each class of the first half (labels sorted), as `POST /tune` would by default.
It is then the parent of tunings on 16 images of each other class, which differ in `keep_old` alone. All are measured on
the half of the pictures that nobody tunes on: old classes before (the parent, among its own classes) and after (among
all), and new classes. `memory` is null-space without a single old image, from what the parent's artefact remembers;
`together` is one tuning on all classes at once, which no continuation has to reach.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evidence.data import Encoder, LabelledSet, open_set
from benchmarks.evidence.sets import OPEN, REPORTED
from npt_core import Backbone, Classifier, Dataset, load_backbone, tune
from npt_core.data.sampling import few_shot
from npt_core.tuning.cache import MemoryFeatureCache

SHOTS = 16
FOLDER = Path("build/continual")
ARMS: Mapping[str, Mapping[str, Any]] = {
    "none": {"keep_old": "none"},
    "memory": {"keep_old": "null-space"},
    "null-space": {"keep_old": "null-space"},
    "replay": {"keep_old": "replay"},
    "both": {"keep_old": "both"},
    "none, bound 0.05": {"keep_old": "none", "max_old_loss": 0.05},
    "replay, bound 0.05": {"keep_old": "replay", "max_old_loss": 0.05},
}
WITHOUT_IMAGES = ("memory",)
COLUMNS = ("dataset", "method", "arm", "seed", "before", "at_start", "old", "new", "all", "share", "seconds")


def draw(data: LabelledSet, labels: Sequence[int], seed: int) -> Dataset:
    """Write a draw of some classes as a folder, and open it."""
    pool = [i for i in data.pool.tolist() if int(data.labels[i]) in labels]
    chosen = few_shot([int(data.labels[i]) for i in pool], SHOTS, seed).tolist()
    root = FOLDER / "draws" / data.name / f"{seed}-{min(labels)}-{len(labels)}"
    for i in (pool[j] for j in chosen):
        path = root / data.names[int(data.labels[i])] / f"{i:05d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            data.picture(i).save(path)
    return Dataset.from_folder(root)


class Bench:
    """One backbone, sets and features between runs."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.cache = backbone, MemoryFeatureCache()
        self.encoder = Encoder(backbone, FOLDER)

    def right(self, classifier: Classifier, data: LabelledSet, labels: Sequence[int]) -> float:
        """Mean accuracy over classes, on pictures that nobody tunes on."""
        rows = torch.tensor([i for i in data.held.tolist() if int(data.labels[i]) in labels])
        found: list[Tensor] = []
        for part in rows.split(128):
            if classifier.needs_pixels:
                images = torch.stack([self.encoder.pixel(data, row, 0) for row in part.tolist()])
            else:
                images = self.encoder.features(data, part)[:, 0]
            found.append(classifier.predict(images).probabilities.argmax(dim=1))
        names = [classifier.labels[i] for i in torch.cat(found).tolist()]
        hits: dict[int, list[bool]] = {}
        for row, name in zip(rows.tolist(), names, strict=True):
            label = int(data.labels[row])
            hits.setdefault(label, []).append(name == data.names[label])
        return statistics.mean(statistics.mean(one) for one in hits.values())

    def do(
        self, name: str, method: str, epochs: int | None, seed: int, arms: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """One parent and everything that goes on from it."""
        data = open_set(name, FOLDER)
        half = (len(data.names) + 1) // 2
        first, rest = list(range(half)), list(range(half, len(data.names)))
        config = {"method": method, "seed": seed, "sampling_seed": seed, **({"epochs": epochs} if epochs else {})}
        old, fresh = draw(data, first, seed), draw(data, rest, seed)
        common = {"backbone": self.backbone, "cache": self.cache}
        parent = tune(old, config, **common).classifier
        before = self.right(parent, data, first)
        for arm in arms:
            started = time.perf_counter()
            if arm == "together":
                made = tune(draw(data, [*first, *rest], seed), config, **common)
            else:
                settings = config | {"parent": "parent", **ARMS[arm]}
                images = () if arm in WITHOUT_IMAGES else (old,)
                made = tune(fresh, settings, parent=parent, old=images, **common)
            told = made.report.parent or {}
            yield {
                "dataset": name,
                "method": method,
                "arm": arm,
                "seed": seed,
                "before": before,
                "at_start": ((told.get("old_accuracy") or {}).get("at_start") or {}).get("accuracy", ""),
                "old": self.right(made.classifier, data, first),
                "new": self.right(made.classifier, data, rest),
                "all": self.right(made.classifier, data, [*first, *rest]),
                "share": told.get("bound", {}).get("share", ""),
                "seconds": round(time.perf_counter() - started, 2),
            }


def table(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Mean and standard deviation over seeds, as Markdown."""
    yield "| set | method | kept by | old before | old after | new | all |"
    yield "|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["dataset"], line["method"], line["arm"]), []).append(line)
    for (dataset, method, arm), found in groups.items():
        cells = [_spread([float(one[key]) for one in found]) for key in ("before", "old", "new", "all")]
        yield f"| {dataset} | {method} | {arm} | {' | '.join(cells)} |"
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        arms.setdefault(line["arm"], []).append(line)
    for arm, found in arms.items():
        cells = [f"{statistics.mean(float(one[key]) for one in found):.3f}" for key in ("before", "old", "new", "all")]
        yield f"| **mean** | | {arm} | {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def main() -> None:
    """Run, write the CSV line by line, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", action="store_true", help="the sets to choose on, in place of the reported ones")
    parser.add_argument("--sets", help="comma-separated; default: all of them")
    parser.add_argument("--methods", default="coop", help="comma-separated")
    parser.add_argument("--arms", default=",".join([*ARMS, "together"]).replace(", ", "; "), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50, help="0: the method's own")
    parser.add_argument("--out", type=Path, default=FOLDER / "continual.csv")
    options = parser.parse_args()
    names = options.sets.split(",") if options.sets else list(OPEN if options.open else REPORTED)
    arms = [arm.replace("; ", ", ") for arm in options.arms.split(",")]
    bench = Bench(load_backbone("demo"))
    first_seed = 100 if options.open else 0
    lines: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for seed in range(first_seed, first_seed + options.seeds):
            for name in names:
                for method in options.methods.split(","):
                    for line in bench.do(name, method, options.epochs or None, seed, arms):
                        lines.append(line)
                        writer.writerow(line)
                        file.flush()
                        print(line, file=sys.stderr)
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
