"""Peak memory of a tuning with many classes, and whether chunks change what is learned.

    python -m benchmarks.memory                     # 1,000, 2,000 and 4,000 classes: about eight minutes on two cores
    python -m benchmarks.memory --classes 1000 --steps 1

Each number of classes is tuned in a process of its own: ViT-B/16 shapes with random weights, CoOp with 16 vectors, two
pictures a class. Image features come out of the cache, as after an earlier tuning: encoding is bounded by its batch,
not by the classes. Peak is that of the whole process, torch and both towers included. Then 100 classes are tuned whole
and in chunks, and losses and contexts are compared. Exits 1 where a peak is over 4 GiB or the losses differ.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import SimpleTokenizer
from PIL import Image

from benchmarks.shapes import VIT_B_16, random_backbone
from npt_core.clip.backbone import Backbone
from npt_core.data import Dataset
from npt_core.tuning.config import TuneConfig
from npt_core.tuning.features import MemoryFeatureCache, feature_key
from npt_core.tuning.tune import TuneResult, tune

PICTURES = 2
BATCH = 1024
"""CoOp's 32 would take hundreds of steps for every picture to be seen once; the logits of a batch are B x K numbers."""
WANTED_GIB = 4.0
WANTED_LOSS = 1e-4
SMALL_BUDGET = 48 * 1024**2
"""Bytes for a step that cut 100 classes into several chunks."""


def class_names(k: int) -> list[str]:
    """Return k distinct names of two words of the tokenizer's vocabulary, one token each."""
    words = [word[:-4] for word in SimpleTokenizer().encoder if word.endswith("</w>") and len(word) > 7]
    words = [word for word in words if word.isascii() and word.isalpha()]
    side = math.isqrt(k - 1) + 1
    return [f"{first} {second}" for first in words[:side] for second in words[side : 2 * side]][:k]


def draw(folder: Path, k: int) -> Dataset:
    """Write small pictures, each its own."""
    rng = np.random.default_rng(0)
    for name in class_names(k):
        (folder / name).mkdir(parents=True)
        for i in range(PICTURES):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return Dataset.from_folder(folder)


def known_features(backbone: Backbone, dataset: Dataset) -> MemoryFeatureCache:
    """Return a cache that holds a feature of every picture."""
    cache = MemoryFeatureCache()
    rng = np.random.default_rng(1)
    values = rng.standard_normal((len(dataset.samples), backbone.d)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    keys = [feature_key(backbone, sample.sha256, 0) for sample in dataset.samples]
    cache.put_many(dict(zip(keys, values, strict=True)))
    return cache


def run(k: int, steps: int, memory_bytes: int = 0) -> TuneResult:
    """Tune k classes for a few steps."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = draw(Path(folder) / "pictures", k)
        backbone = random_backbone(VIT_B_16)
        config = TuneConfig.from_dict(
            {
                "method": "coop",
                "method_config": {"n_ctx": 16},
                "epochs": steps,
                "batch_size": BATCH,
                "lr": 0.002,
                "views": 1,
                "refit": False,
            }
        )
        cache = known_features(backbone, dataset)
        return tune(dataset, config, backbone=backbone, cache=cache, memory_bytes=memory_bytes)


def child(k: int, steps: int) -> None:
    """Tune and print what it took."""
    start = time.perf_counter()
    result = run(k, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out = {"peak": peak, "seconds": time.perf_counter() - start, "steps": result.counters["steps"]}
    print(json.dumps({**out, "chunk": result.classifier.method.chunk}))


def measure(k: int, steps: int, threads: int) -> dict[str, Any]:
    """Tune in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", str(k), "--steps", str(steps)]
    done = subprocess.run([*command, "--threads", str(threads)], check=True, capture_output=True, text=True)
    out: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return out


def compare_chunks(k: int, steps: int) -> tuple[float, float, int]:
    """Tune whole and in chunks; return the largest difference of losses and of contexts, and the chunk."""
    whole, cut = run(k, steps, 1 << 40), run(k, steps, SMALL_BUDGET)
    chunk = cut.classifier.method.chunk
    if whole.classifier.method.chunk is not None or chunk is None or chunk >= k:
        raise RuntimeError(f"the budget of {SMALL_BUDGET} bytes cuts nothing: chunk {chunk}")
    losses = [[epoch["loss"] for epoch in one.classifier.report["history"]] for one in (whole, cut)]
    contexts = [one.classifier.method.state_dict()["ctx"] for one in (whole, cut)]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    return apart, float((contexts[0] - contexts[1]).abs().max()), chunk


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.child:
        child(args.child, args.steps)
        return 0
    good = True
    print("classes   peak MiB   chunk   steps   seconds", flush=True)
    for k in args.classes:
        out = measure(k, args.steps, args.threads)
        chunk = "all" if out["chunk"] is None else out["chunk"]
        print(
            f"{k:>7}   {out['peak'] / 2**20:>8.0f}   {chunk:>5}   {out['steps']:>5}   {out['seconds']:>7.0f}",
            flush=True,
        )
        good &= out["peak"] <= WANTED_GIB * 2**30
    apart, moved, chunk = compare_chunks(100, 5)
    print(f"100 classes in chunks of {chunk}: losses differ by {apart:.1e}, contexts by {moved:.1e}")
    good &= apart <= WANTED_LOSS
    print("PASS" if good else f"missed: wanted at most {WANTED_GIB} GiB, losses within {WANTED_LOSS}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
