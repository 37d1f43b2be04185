"""A whole tuning against the straightforward loop, and against what its parts cost by themselves.

    python -m benchmarks.whole_tune                 # CoOp's schedule in full: about eight minutes on two cores
    python -m benchmarks.whole_tune --epochs 20     # a look

10 classes of 16 pictures, ViT-B/16 shapes with random weights, CoOp with 16 vectors, batch 32, one view an image. The
straightforward loop encodes the batch's images and full-context prompts in every step, as research code does;
decoding is not counted against it. The parts are a bare loop that decodes and encodes each image once, timed before
and after the job, and a bare step on the text side alone, timed every now and then within the job, whose own clock
stands still meanwhile: other work on the machine then meets both alike. Exits 1 where a step is not 40 times cheaper
or the whole job takes over 1.3 times its parts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.shapes import VIT_B_16, random_backbone
from npt_core.clip.backbone import Backbone
from npt_core.clip.tokens import ClassPrompt
from npt_core.data import Dataset
from npt_core.methods import get_method
from npt_core.methods.coop import CoOp
from npt_core.tuning.config import TuneConfig
from npt_core.tuning.control import GoOn, Progress
from npt_core.tuning.features import load_picture
from npt_core.tuning.tune import TuneResult, tune

NAMES = ("cat", "dog", "horse", "truck", "ship", "bird", "frog", "plane", "deer", "car")
SHOTS, BATCH, N_CTX = 16, 32, 16
WANTED_STEP, WANTED_JOB = 40.0, 1.3
EVERY = 25
"""Steps of the job between two looks at the bare step."""


def draw(folder: Path, *, side: int = 256) -> Dataset:
    """Write noisy pictures, one hue a class, as JPEG files."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        hue = rng.integers(40, 216, 3)
        for i in range(SHOTS):
            pixels = np.clip(hue + rng.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg", quality=90)
    return Dataset.from_folder(folder)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call that was made once before."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Parts:
    """What a tuning is made of, each in a loop of its own."""

    def __init__(self, backbone: Backbone, dataset: Dataset) -> None:
        self.backbone, self.dataset = backbone, dataset
        classes = [ClassPrompt(name) for name in NAMES]
        generator = torch.Generator().manual_seed(0)
        config = get_method("coop").Config.from_dict({"n_ctx": N_CTX})
        method = CoOp(config, backbone, classes, generator=generator)
        self.method = method
        self.optimizer = torch.optim.SGD([method.ctx], lr=0.002, momentum=0.9)
        self.features = F.normalize(torch.randn(BATCH, backbone.d, generator=generator), dim=-1)
        self.labels = torch.arange(BATCH) % len(NAMES)

    def encode_images(self) -> float:
        """Decode and encode each image once, `BATCH` at a time; return the seconds."""
        began, samples = time.perf_counter(), self.dataset.samples
        for start in range(0, len(samples), BATCH):
            part = samples[start : start + BATCH]
            pixels = torch.stack([load_picture(self.backbone, self.dataset.read(sample)) for sample in part])
            self.backbone.encode_images(pixels)
        return time.perf_counter() - began

    def step(self) -> None:
        """One step on features that are at hand: prompts, loss, gradient, optimiser."""
        self._learn(self.features, self.method.encode_text())

    def straightforward_step(self, pixels: Tensor) -> None:
        """One step as research code does it: images and the whole context of every prompt."""
        with torch.no_grad():
            images = self.backbone.image.visual(pixels)
        batch = self.method.table.assemble(self.method.ctx)
        text = self.method.table.pool(self.backbone.text.encode_prompts(batch, path="reference"))
        self._learn(F.normalize(images, dim=-1), text)

    def _learn(self, images: Tensor, text: Tensor) -> None:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.backbone.logit_scale * images @ text.t(), self.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


class Between(GoOn):
    """Times a bare step between the steps of a job."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.step, self.phase, self.calls, self.away = step, "", 0, 0.0
        self.samples: list[float] = []

    def progress(self, where: Progress) -> None:
        """Note what the job is at."""
        self.phase = where.phase

    def check(self) -> None:
        """Called before every step."""
        if self.phase != "tuning":
            return
        self.calls += 1
        if self.calls % EVERY:
            return
        start = time.perf_counter()
        for _ in range(2):
            began = time.perf_counter()
            self.step()
            self.samples.append(time.perf_counter() - began)
        self.away += time.perf_counter() - start


def run_job(backbone: Backbone, dataset: Dataset, epochs: int, between: Between) -> tuple[TuneResult, float]:
    """Tune as the worker does, evaluation included; return the result and its seconds."""
    config = TuneConfig.from_dict(
        {
            "method": "coop",
            "method_config": {"n_ctx": N_CTX},
            "regularizer": "npt",
            "epochs": epochs,
            "batch_size": BATCH,
            "views": 1,
        }
    )
    start = time.perf_counter()
    result = tune(dataset, config, backbone=backbone, control=between, progress=between.progress)
    return result, time.perf_counter() - start - between.away


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=200, help="CoOp's own for 16 images a class")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(
        f"ViT-B/16, {args.precision}, {args.threads} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    backbone = random_backbone(VIT_B_16, precision=args.precision)
    with tempfile.TemporaryDirectory() as folder:
        dataset = draw(Path(folder) / "pictures")
        parts = Parts(backbone, dataset)
        pixels = torch.randn(BATCH, 3, *backbone.image_size, dtype=backbone.image.dtype)
        between = Between(parts.step)
        plain = seconds(lambda: parts.straightforward_step(pixels), args.repeats)
        seconds(parts.step, 1)
        encode = [parts.encode_images()]
        result, job = run_job(backbone, dataset, args.epochs, between)
        encode.append(parts.encode_images())
    step, steps, took = statistics.mean(between.samples), result.counters["steps"], result.report.seconds
    took["tuning"] -= between.away
    per_step = took["tuning"] / steps
    each_once = statistics.mean(encode)
    sum_of_parts = each_once + steps * step
    print(f"straightforward step {plain:.2f} s, ours in the job {per_step:.4f} s: {plain / per_step:.1f}x")
    print(f"job {job:.1f} s = {', '.join(f'{name} {value:.1f}' for name, value in took.items())}")
    print(f"parts: each image once {each_once:.1f} s + {steps} steps x {step:.4f} s = {sum_of_parts:.1f} s")
    print(f"job / parts {job / sum_of_parts:.3f}")
    good = plain / per_step >= WANTED_STEP and job / sum_of_parts <= WANTED_JOB
    print("PASS" if good else f"missed: wanted {WANTED_STEP:.0f}x a step and at most {WANTED_JOB} of the parts")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
