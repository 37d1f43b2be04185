"""Whether `torch.compile` pays for the text step: its gain on each step beside what compiling takes.

    python -m benchmarks.compiled                      # 10 and 100 classes, fp32, ViT-B/16 text shapes, 2 threads

The same exact fast path, eager and compiled, forward and backward to the context vectors, in turns; medians. Compiling
is timed from the first call until a step is no longer slower than the eager one, with an empty cache of kernels. A
compiled step also wants a C++ compiler where the service runs. Nothing is wanted: it prints what was found, and after
how many steps compiling has paid for itself. Exits 1 where the two differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from typing import Any

import torch

from benchmarks.text_path import Prompts, Side, build_tower

SETTLED = 1.5
"""A step that takes less than so many eager ones compiles nothing any more."""


def measure(k: int, repeats: int, mode: str) -> dict[str, float]:
    """Time both sides; (seconds eager, compiled, of compiling, largest difference of the gradient, relative)."""
    _, tower = build_tower(seed=0)
    _, other = build_tower(seed=0)
    eager, compiled = Side(tower, "fast", k), Side(other, "fast", k)
    prompts = Prompts(tower, k=k, prefix=17, suffix=4)
    _, wanted = prompts.step(eager)
    usual = statistics.median(prompts.timed(eager)[0] for _ in range(5))
    other.encode_prompts = torch.compile(other.encode_prompts, mode=mode)  # type: ignore[method-assign]
    warm, tries = 0.0, 0
    while True:
        seconds, _ = prompts.timed(compiled)
        tries += 1
        if seconds < SETTLED * usual or tries == 10:
            break
        warm += seconds - usual
    _, found = prompts.step(compiled)
    times: dict[str, list[float]] = {"eager": [], "compiled": []}
    for _ in range(repeats):
        times["eager"].append(prompts.timed(eager)[0])
        times["compiled"].append(prompts.timed(compiled)[0])
    median: dict[str, Any] = {name: statistics.median(found) for name, found in times.items()}
    return {**median, "compiling": warm, "apart": float((found - wanted).norm() / wanted.norm())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mode", default="default", help="of torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        print("| classes | eager, ms | compiled, ms | times faster | compiling, s | steps until paid |", flush=True)
        print("|---|---|---|---|---|---|")
        for k in args.classes:
            torch.compiler.reset()
            one = measure(k, args.repeats, args.mode)
            gain = one["eager"] - one["compiled"]
            steps = f"{one['compiling'] / gain:,.0f}" if gain > 0 else "never"
            row = f"| {k} | {1000 * one['eager']:.0f} | {1000 * one['compiled']:.0f} "
            row += f"| {one['eager'] / one['compiled']:.2f} | {one['compiling']:.0f} | {steps} |"
            print(row, flush=True)
            good &= one["apart"] < 1e-4
            if one["apart"] >= 1e-4:
                print(f"the gradients differ by {one['apart']:.1e}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
