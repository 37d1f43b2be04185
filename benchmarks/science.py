"""Does NPT help, balanced and imbalanced? Base-to-novel with long-tailed training sets, methods x regularisers x seeds.

    python -m benchmarks.science --quick           minutes on two cores: 2 seeds, short trainings
    python -m benchmarks.science                   the headline table: 4 methods, 3 regularisers, 5 seeds, 4 sets, 3 tau
    python -m benchmarks.science --sweep           weights of NPT on sets that no result is reported on

Labels are sorted and the first half is base. A prompt is tuned on up to 16 base images a class, fewer by tau for rare
classes, and measured on base and on novel classes it never saw; H is their harmonic mean. Half of each class's pictures
are for drawing training sets from, the other half for measuring. Runs are appended to a CSV as they end; a second call
goes on where the first one stopped. `benchmarks/science_report.py` turns the CSV into docs/results.md and plots.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from benchmarks.science_sets import OPEN, REPORTED, Encoded, encoded
from npt_core.clip import Backbone, ClassPrompt, load_backbone
from npt_core.collapse import CollapseSetup, get_regularizer
from npt_core.data.sampling import few_shot, imbalanced_counts, stratified_split
from npt_core.methods import ImageBatch, ImageInput, get_method
from npt_core.tuning.config import Schedule, TuneConfig
from npt_core.tuning.trainer import TrainData, Trainer

METHODS = ("coop", "kgcoop", "prograd", "cocoop")
REGULARIZERS = ("none", "npt", "cpt")
TAUS = (1.0, 0.25, 0.06)
N_MAX = 16
POOL_SEED = 0
"""Which pictures are for training sets and which for measuring: the same for every run."""


@dataclass(frozen=True)
class Run:
    """One tuning."""

    dataset: str
    method: str
    regularizer: str
    tau: float
    seed: int
    weights: str = ""
    epochs: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it this run, as the CSV has it."""
        return tuple(str(value) for value in asdict(self).values())


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over classes of each class's accuracy."""
    right = (logits.argmax(dim=1) == labels).double()
    counts = torch.bincount(labels).double()
    hits = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, labels, right)
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def part(data: Encoded, names: list[str], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Features and labels (numbered within `names`) of those `rows` that are of the classes `names`."""
    number = {data.names.index(name): k for k, name in enumerate(names)}
    keep = torch.tensor([i for i in rows.tolist() if int(data.labels[i]) in number])
    return data.features[keep], torch.tensor([number[int(data.labels[i])] for i in keep])


@torch.no_grad()
def measure(method: Any, features: Tensor, labels: Tensor) -> float:
    """Accuracy on plain views."""
    text = None if method.text_depends_on_image else method.encode_text()
    parts = [method(ImageBatch(features=some), text).logits for some in features[:, 0].split(256)]
    return accuracy(torch.cat(parts), labels)


def do(run: Run, backbone: Backbone, data: Encoded) -> dict[str, Any]:
    """Tune and measure."""
    started = time.perf_counter()
    every = data.labels.tolist()
    pool, held = (torch.as_tensor(one) for one in stratified_split(every, 0.5, POOL_SEED))
    half = (len(data.names) + 1) // 2
    base, novel = list(data.names[:half]), list(data.names[half:])
    features, labels = part(data, base, pool)
    counts = imbalanced_counts(len(base), N_MAX, run.tau, run.seed)
    chosen = torch.as_tensor(few_shot(labels.tolist(), dict(enumerate(counts)), run.seed))
    features, labels = features[chosen], labels[chosen]

    weights = dict(pair.split("=") for pair in run.weights.split(";")) if run.weights else {}
    config = TuneConfig.from_dict(
        {
            "method": run.method,
            "regularizer": run.regularizer,
            "regularizer_config": {name: float(value) for name, value in weights.items()},
            "seed": run.seed,
            **({"epochs": run.epochs} if run.epochs else {}),
        }
    )
    cls = get_method(run.method)
    if cls.image_input is not ImageInput.POOLED:
        raise SystemExit(f"{run.method} needs more than pooled features; this benchmark has those only.")
    classes = [ClassPrompt(name) for name in base]
    method = cls(
        cls.Config.from_dict(config.method_config),
        backbone,
        classes,
        generator=torch.Generator().manual_seed(run.seed),
    )
    plain = get_method("zero_shot")
    zero = plain(plain.Config(), backbone, classes, generator=torch.Generator())
    kind = get_regularizer(run.regularizer)
    regularizer = kind(
        kind.Config.from_dict(config.regularizer_config),
        CollapseSetup(zero.encode_text(), torch.bincount(labels, minlength=len(base)), run.seed),
    )
    schedule = Schedule.resolve(config, len(labels), len(base), backbone)
    trainer = Trainer(method, TrainData(labels, features.shape[1], features), regularizer, schedule, seed=run.seed)
    trainer.run()
    method.eval()
    after = trainer.measure()
    on_base, on_novel = part(data, base, held), part(data, novel, held)
    others = [ClassPrompt(name) for name in novel]
    found = {
        "base": measure(method, *on_base),
        "novel": measure(method.with_classes(others), *on_novel),
        "zero_base": measure(zero, *on_base),
        "zero_novel": measure(zero.with_classes(others), *on_novel),
    }
    for prefix in ("", "zero_"):
        first, second = found[f"{prefix}base"], found[f"{prefix}novel"]
        found[f"{prefix}h"] = 2 * first * second / (first + second) if first + second else 0.0
    return {
        **asdict(run),
        **found,
        "equiangularity": after["equiangularity_mean"],
        "duality": after["duality"],
        "bias_spread": after["bias_spread"],
        "images": len(labels),
        "steps": schedule.steps(len(labels)),
        "seconds": round(time.perf_counter() - started, 2),
    }


_STATE: dict[str, Any] = {}


def _begin(folder: str, name: str) -> None:
    torch.set_num_threads(1)
    _STATE["backbone"] = load_backbone(name)
    _STATE["folder"] = Path(folder)


def _work(run: Run) -> dict[str, Any]:
    backbone: Backbone = _STATE["backbone"]
    sets = _STATE.setdefault("sets", {})
    if run.dataset not in sets:
        sets[run.dataset] = encoded(run.dataset, backbone, _STATE["folder"])
    return do(run, backbone, sets[run.dataset])


def headline(seeds: int, epochs: int) -> Iterator[Run]:
    """Seeds outermost, so that what is there when it is stopped is balanced."""
    for seed in range(seeds):
        for dataset in REPORTED:
            for tau in TAUS:
                for method in METHODS:
                    for regularizer in REGULARIZERS:
                        yield Run(dataset, method, regularizer, tau, seed, epochs=epochs)


def sweep(seeds: int, epochs: int) -> Iterator[Run]:
    """Weights of the NPT terms, on the open sets only."""
    for seed in range(100, 100 + seeds):
        for dataset in OPEN:
            for tau in TAUS:
                yield Run(dataset, "coop", "none", tau, seed, epochs=epochs)
                for weights in ("0.3,0.3", "1,1", "3,3", "10,10", "3,0", "0,3", "0,10"):
                    lmc, mmi = weights.split(",")
                    yield Run(dataset, "coop", "npt", tau, seed, f"lambda_lmc={lmc};lambda_mmi={mmi}", epochs)


def known(path: Path) -> set[tuple[str, ...]]:
    """Keys of the runs a CSV has."""
    if not path.exists():
        return set()
    fields = list(Run.__dataclass_fields__)
    with path.open(newline="") as file:
        return {tuple(line[name] for name in fields) for line in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 30 epochs")
    parser.add_argument("--sweep", action="store_true", help="weights on the open sets")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=None, help="0: each method's own")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--folder", type=Path, default=Path("build/science"))
    options = parser.parse_args()
    seeds = options.seeds or (2 if options.quick or options.sweep else 5)
    epochs = options.epochs if options.epochs is not None else (30 if options.quick else 0)
    runs = list((sweep if options.sweep else headline)(seeds, epochs))
    path = options.folder / ("sweep.csv" if options.sweep else "quick.csv" if options.quick else "headline.csv")
    options.folder.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(options.backbone)
    for name in dict.fromkeys(run.dataset for run in runs):
        encoded(name, backbone, options.folder)  # once, before several processes want it
    done = known(path)
    left = [run for run in runs if run.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them done before, into {path}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    initargs = (str(options.folder), options.backbone)
    with (
        ProcessPoolExecutor(options.jobs, get_context("spawn"), _begin, initargs) as pool,
        Progress(*columns) as bar,
    ):
        task = bar.add_task("tuning", total=len(left))
        for future in as_completed([pool.submit(_work, run) for run in left]):
            line = future.result()
            fresh = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(line))
                if fresh:
                    writer.writeheader()
                writer.writerow(line)
            bar.advance(task)


if __name__ == "__main__":
    main()
