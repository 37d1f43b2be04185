"""Does NPT help, balanced and imbalanced? Methods x regularisers x seeds on data sets, by the field's protocols.

    python -m benchmarks.science                   the headline table: base-to-novel, 4 methods, 3 regularisers, 5 seeds
    python -m benchmarks.science --quick           the same with 2 seeds, short trainings and two methods: minutes
    python -m benchmarks.science --plan sweep      weights of the regularisers, on sets that no result is reported on
    python -m benchmarks.science --plan few-shot   and imbalance, cross-dataset, defaults
    python -m benchmarks.science --paper --root DATA --backbone ViT-B-16/openai
                                                   the paper's 11 data sets (docs/paper_sets.md) with a real CLIP

Labels are sorted and the first half is base. A prompt is tuned on up to 16 images a base class, fewer by tau for rare
ones, and measured on base and on novel classes that it never saw. Runs are appended to a CSV as they end; a second call
goes on where the first one stopped. `benchmarks/evidence/report.py` turns the CSVs into docs/results.md and plots.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.evidence.runs import KEY, PLANS, SCOPES, Run
from benchmarks.evidence.tuning import Laboratory
from benchmarks.paper_sets import NAMES as PAPER_SETS
from npt_core.clip import load_backbone
from npt_core.errors import NPTError

QUICK_EPOCHS = 20
QUICK_METHODS = ("coop", "kgcoop")
_LAB: dict[str, Laboratory] = {}


def _begin(folder: Path, backbone: str, root: Path | None) -> None:
    torch.set_num_threads(1)
    _LAB["here"] = Laboratory(load_backbone(backbone), folder, root)


def _work(run: Run) -> list[dict[str, Any]]:
    return _LAB["here"].do(run)


def known(path: Path) -> set[tuple[str, ...]]:
    """Return the keys of the runs that a CSV has."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(line[name] for name in KEY) for line in csv.DictReader(file)}


def append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Add the lines of one run to a CSV."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        if fresh:
            writer.writeheader()
        writer.writerows(lines)


def carry_out(runs: Sequence[Run], path: Path, options: argparse.Namespace) -> None:
    """Do what is not in the CSV yet, in parallel, with a progress bar."""
    done = known(path)
    left = [run for run in runs if run.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them done before, into {path}", flush=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    initargs = (options.folder, options.backbone, options.root)
    failed = 0
    with (
        ProcessPoolExecutor(options.jobs, get_context("spawn"), _begin, initargs) as pool,
        Progress(*columns) as bar,
    ):
        task = bar.add_task("tuning", total=len(left))
        futures = {pool.submit(_work, run): run for run in left}
        for future in as_completed(futures):
            try:
                append(path, future.result())
            except NPTError as error:
                failed += 1
                bar.print(f"left out: {futures[future]}: {error}")
            bar.advance(task)
    if failed:
        raise SystemExit(f"{failed} of {len(left)} runs failed; the others are in {path}.")


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated option."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", choices=tuple(PLANS), default="headline")
    parser.add_argument("--quick", action="store_true", help=f"2 seeds, {QUICK_EPOCHS} epochs, {QUICK_METHODS}")
    parser.add_argument("--paper", action="store_true", help="the paper's 11 data sets; needs --root and a real CLIP")
    parser.add_argument("--root", type=Path, help="folder of the paper's data sets")
    parser.add_argument("--datasets", type=listed, help="others than the plan's, with commas between them")
    parser.add_argument("--methods", type=listed)
    parser.add_argument("--regularizers", type=listed)
    parser.add_argument("--taus", type=lambda text: tuple(float(part) for part in listed(text)))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--epochs", type=int, help="0: each method's own")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--folder", type=Path, default=Path("build/science"))
    return parser.parse_args()


def main() -> None:
    """Run a plan."""
    options = arguments()
    scope, name = SCOPES[options.plan], options.plan
    if options.quick:
        scope, name = replace(scope, seeds=2, epochs=QUICK_EPOCHS, methods=QUICK_METHODS), f"{name}-quick"
    if options.paper:
        scope, name = replace(scope, datasets=PAPER_SETS), f"{name}-paper"
    wanted = {
        field: getattr(options, field)
        for field in ("datasets", "methods", "regularizers", "taus", "seeds", "epochs")
        if getattr(options, field) is not None
    }
    runs = list(PLANS[options.plan](replace(scope, **wanted)))
    options.folder.mkdir(parents=True, exist_ok=True)
    lab = Laboratory(load_backbone(options.backbone), options.folder, options.root)
    try:
        for dataset in dict.fromkeys(run.dataset for run in runs):
            lab.open(dataset)  # drawn once, or refused, before several processes want it
    except NPTError as error:
        raise SystemExit(str(error)) from error
    carry_out(runs, options.folder / f"{name}.csv", options)


if __name__ == "__main__":
    main()
