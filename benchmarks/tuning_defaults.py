"""Which learning rate, epochs, views and NPT weights are good defaults? Accuracy on images that were not tuned on.

    python benchmarks/tuning_defaults.py --what lr,weights,views,epochs --seeds 3 --out results.csv

Everything is measured on pictures one may look at while choosing: the `look` half of the real handwritten digits, and
sets that the project draws. The reported half of the digits is never opened here. Each line of the CSV is one tuning:
a set, a draw of 16 or 4 images a class, a seed, the settings, and the accuracy on the rest of the set.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from npt_core.clip import Backbone, ClassPrompt, load_backbone
from npt_core.collapse import CollapseSetup, get_regularizer
from npt_core.data import few_shot
from npt_core.methods import get_method
from npt_core.tuning.config import Schedule, TuneConfig, resolve_views
from npt_core.tuning.traindata import TrainData
from npt_core.tuning.trainer import Trainer
from npt_core.tuning.views import view_of

MAX_VIEWS = 8


@dataclass
class Pictures:
    """A labelled set, encoded once in all its views."""

    name: str
    classes: list[ClassPrompt]
    features: Tensor  # (n, MAX_VIEWS, d)
    labels: Tensor


def encode(backbone: Backbone, name: str, images: list[Image.Image], labels: list[str]) -> Pictures:
    names = sorted(set(labels))
    parts = []
    for start in range(0, len(images), 64):
        pixels = [
            backbone.load_pixels(view_of(image.convert("RGB"), f"{name}-{start + i}", view))
            for i, image in enumerate(images[start : start + 64])
            for view in range(MAX_VIEWS)
        ]
        parts.append(backbone.encode_images(torch.stack(pixels)).view(-1, MAX_VIEWS, backbone.d))
    number = {label: k for k, label in enumerate(names)}
    return Pictures(
        name, [ClassPrompt(one) for one in names], torch.cat(parts), torch.tensor([number[one] for one in labels])
    )


def sets(backbone: Backbone, wanted: list[str]) -> Iterator[Pictures]:
    from npt_core.clip.demo import draw
    from npt_core.clip.demo.real_digits import load_half

    if "real" in wanted:
        half = load_half("look")
        yield encode(backbone, "real", half.pictures(), list(half.labels))
    hard: dict[str, Any] = {"ease": 0.0}  # every colour, place, warp and wear there is
    drawings = {
        "strokes": lambda: draw.draw_digits(700, 71, style="handwritten", scanned=0.5, **hard),
        "fonts": lambda: draw.draw_digits(700, 73, fonts="unseen", **hard),
        "shapes": lambda: draw.draw_shapes(900, 75, **hard),
    }
    for name, make in drawings.items():
        if name in wanted:
            drawn = make()
            yield encode(backbone, name, [Image.fromarray(image) for image in drawn.images], list(drawn.labels))


def one(backbone: Backbone, data: Pictures, shots: int, seed: int, config: TuneConfig) -> dict[str, Any]:
    """Tune on `shots` images a class, measure on the rest."""
    chosen = torch.from_numpy(few_shot(data.labels.tolist(), shots, seed))
    rest = torch.ones(len(data.labels), dtype=torch.bool)
    rest[chosen] = False
    labels = data.labels[chosen]
    cls, zero = get_method(config.method), get_method("zero_shot")
    generator = torch.Generator().manual_seed(seed)
    method = cls(cls.Config.from_dict(config.method_config), backbone, data.classes, generator=generator)
    baseline = zero(zero.Config(), backbone, data.classes, generator=generator).encode_text()
    regularizer = get_regularizer(str(config.regularizer))
    setup = CollapseSetup(baseline, torch.bincount(labels), seed)
    schedule = Schedule.resolve(config, len(labels), len(data.classes), backbone)
    views = resolve_views(config, len(labels))
    trainer = Trainer(
        method,
        TrainData(labels, views, data.features[chosen][:, :views]),
        regularizer(regularizer.Config.from_dict(config.regularizer_config), setup),
        schedule,
        seed=seed,
    )
    started = time.perf_counter()
    result = trainer.run()
    seconds = time.perf_counter() - started
    images, truth = data.features[rest][:, 0], data.labels[rest]
    text = method.encode_text().detach()
    after = trainer.measure()
    loss = torch.nn.functional.cross_entropy(backbone.logit_scale * images @ text.t(), truth)
    return {
        "set": data.name,
        "shots": shots,
        "seed": seed,
        "zero_shot": float(((images @ baseline.t()).argmax(1) == truth).float().mean()),
        "tuned": float(((images @ text.t()).argmax(1) == truth).float().mean()),
        "nll": float(loss),
        "train_accuracy": result.history[-1]["accuracy"],
        "equiangularity": after["equiangularity_mean"],
        "duality": after["duality"],
        "lr": schedule.lr,
        "epochs": schedule.epochs,
        "steps": result.steps,
        "ms_per_step": 1000 * seconds / result.steps,
    }


def grid(what: str, base: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings to compare, by name."""
    if what == "lr":
        for n_ctx in (4, 16):
            for regularizer in ("none", "npt"):
                for lr in (0.01, 0.03, 0.1, 0.3):
                    settings = {"lr": lr, "regularizer": regularizer, "method_config": {"n_ctx": n_ctx}}
                    yield f"lr={lr:g} n_ctx={n_ctx} {regularizer}", settings
    if what == "weights":
        yield "none", {"regularizer": "none"}
        for lmc in (0.0, 1.0, 3.0, 10.0):
            for mmi in (0.0, 1.0, 3.0, 10.0):
                if lmc or mmi:
                    weights = {"lambda_lmc": lmc, "lambda_mmi": mmi}
                    yield f"lmc={lmc:g} mmi={mmi:g}", {"regularizer": "npt", "regularizer_config": weights}
    if what == "views":
        for views in (1, 2, 4, 8):
            yield f"views={views}", {"views": views}
    if what == "epochs":
        for epochs in (25, 50, 100, 200, 400):
            yield f"epochs={epochs}", {"epochs": epochs}
    if what == "context":
        for settings in (
            {"n_ctx": 4},
            {"n_ctx": 16},
            {"n_ctx": 4, "class_specific": True},
            {"n_ctx": 4, "position": "middle"},
        ):
            yield " ".join(f"{key}={value}" for key, value in settings.items()), {"method_config": settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--what", default="lr,weights,views,epochs")
    parser.add_argument("--sets", default="real,strokes,fonts,shapes")
    parser.add_argument("--shots", default="16,4")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--base", default="", help="settings for all, as key=value,key=value (lr, views, epochs)")
    parser.add_argument("--out", type=Path, default=Path("tuning_defaults.csv"))
    options = parser.parse_args()
    base: dict[str, Any] = {}
    for pair in filter(None, options.base.split(",")):
        key, value = pair.split("=")
        base[key] = float(value) if key == "lr" else int(value)
    backbone = load_backbone(options.backbone)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for data in sets(backbone, options.sets.split(",")):
        for what in options.what.split(","):
            for name, settings in grid(what, base):
                config = TuneConfig.from_dict({**base, **settings})
                found = [
                    {"what": what, "settings": name, **one(backbone, data, shots, seed, config)}
                    for shots in map(int, options.shots.split(","))
                    for seed in range(options.first_seed, options.first_seed + options.seeds)
                ]
                rows += found
                print(
                    f"{data.name:8} {what:8} {name:24}",
                    *(
                        f"{shots}: {np.mean([r['tuned'] for r in found if r['shots'] == shots]):.3f}"
                        f" (zero {np.mean([r['zero_shot'] for r in found if r['shots'] == shots]):.3f})"
                        for shots in map(int, options.shots.split(","))
                    ),
                    f"dual {np.mean([r['duality'] for r in found]):.2f}",
                    f"{np.mean([r['ms_per_step'] for r in found]):.1f} ms",
                    flush=True,
                )
                with options.out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, rows[0].keys())
                    writer.writeheader()
                    writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
