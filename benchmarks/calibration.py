"""How many images does a temperature take, and which class frequencies do tuned scores assume?

    python -m benchmarks.calibration --what temperature,priors,threshold

Measured on pictures one may look at while choosing: the `look` half of the real handwritten digits, and drawn sets.
Every number comes from images that neither the prompt nor the temperature had seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.tuning_defaults import Pictures, sets
from npt_core import calibration
from npt_core.calibration import fit_temperature
from npt_core.clip import Backbone, load_backbone
from npt_core.collapse import CollapseSetup, get_regularizer
from npt_core.methods import ImageBatch, get_method
from npt_core.tuning.calibrating import recommended, reliability, thresholds
from npt_core.tuning.config import Schedule, TuneConfig, resolve_views
from npt_core.tuning.traindata import TrainData
from npt_core.tuning.trainer import Trainer

METHODS = ("coop", "linear_probe", "tip_adapter")
COUNTS = (5, 10, 20, 40, 80)
DRAWS = 40
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def tuned_logits(backbone: Backbone, data: Pictures, chosen: Tensor, config: TuneConfig) -> tuple[Tensor, Tensor]:
    """Tune on the chosen images; (n, K) logits and labels of all others."""
    rest = torch.ones(len(data.labels), dtype=torch.bool)
    rest[chosen] = False
    labels = data.labels[chosen]
    cls, zero = get_method(config.method), get_method("zero_shot")
    generator = torch.Generator().manual_seed(config.seed)
    method = cls(cls.Config.from_dict(config.method_config), backbone, data.classes, generator=generator)
    baseline = zero(zero.Config(), backbone, data.classes, generator=generator).encode_text()
    regularizer = get_regularizer(str(config.regularizer))
    setup = CollapseSetup(baseline, torch.bincount(labels, minlength=len(data.classes)), config.seed)
    views = resolve_views(config, len(labels))
    Trainer(
        method,
        TrainData(labels, views, data.features[chosen][:, :views]),
        regularizer(regularizer.Config.from_dict(config.regularizer_config), setup),
        Schedule.resolve(config, len(labels), len(data.classes), backbone),
        seed=config.seed,
    ).run()
    with torch.no_grad():
        logits = method(ImageBatch(features=data.features[rest][:, 0]), None).logits
    return logits.float(), data.labels[rest]


def draw(labels: Tensor, counts: list[int], seed: int) -> Tensor:
    """So many images of each class."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for k, count in enumerate(counts):
        own = (labels == k).nonzero()[:, 0]
        parts.append(own[torch.randperm(len(own), generator=generator)[:count]])
    return torch.cat(parts)


def nll(logits: Tensor, labels: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits.double(), labels))


def ece(logits: Tensor, labels: Tensor) -> float:
    return float(reliability(calibration.certainty(logits, labels), labels)["ece"])


def temperature_rows(logits: Tensor, labels: Tensor, flips: float) -> Iterator[str]:
    """A temperature from few images, judged on the others, against none and against the best there is."""
    calibration.COIN_FLIPS = flips  # the one place where it is another
    for count in COUNTS:
        found = []
        for seed in range(DRAWS):
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
            few, others = order[:count], order[count:]
            t = fit_temperature(logits[few], labels[few]).temperature
            raw, fitted = nll(logits[others], labels[others]), nll(logits[others] / t, labels[others])
            best = nll(logits[others] / fit_temperature(logits[others], labels[others]).temperature, labels[others])
            found.append(
                (t, raw, fitted, best, ece(logits[others], labels[others]), ece(logits[others] / t, labels[others]))
            )
        t, raw, fitted, best, ece_raw, ece_fitted = np.mean(found, axis=0)
        worse = np.mean([one[2] > one[1] + 0.005 for one in found])
        yield (
            f"    {count:3d} images, {flips:g} coin flips: T {t:6.3f}  nll {raw:.3f} -> {fitted:.3f} "
            f"(best {best:.3f})  ece {ece_raw:.3f} -> {ece_fitted:.3f}  worse in {worse:.0%}"
        )


def prior_rows(logits: Tensor, labels: Tensor, shares: Tensor) -> Iterator[str]:
    """Adjusted to even frequencies: with which assumed ones does it fit best?"""
    weights = (shares / shares.max())[labels]  # measured images as frequent as the tuned ones
    keep = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < weights
    t = fit_temperature(logits[keep], labels[keep]).temperature
    for exponent in EXPONENTS:
        assumed = shares.pow(exponent) / shares.pow(exponent).sum()
        adjusted = logits / t - assumed.log()
        accuracy = np.mean([float((adjusted[labels == k].argmax(1) == k).float().mean()) for k in range(len(shares))])
        per_class = np.mean([nll(adjusted[labels == k], labels[labels == k]) for k in range(len(shares))])
        yield f"    shares^{exponent:<4g}: accuracy {accuracy:.3f}  nll {per_class:.3f}"


def threshold_rows(logits: Tensor, labels: Tensor) -> Iterator[str]:
    """How often is a recommended threshold too low for what it promises?"""
    for count in (40, 80, 160):
        said, broken, accuracies, shares = 0, 0, [], []
        for seed in range(DRAWS * 5):
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
            few, others = order[:count], order[count:]
            folds = torch.arange(count) % calibration.FOLDS
            judged = calibration.cross_fitted(logits[few], labels[few], folds)
            found = recommended(thresholds(judged, labels[few]))
            if found["threshold"] is None:
                continue
            t = fit_temperature(logits[few], labels[few]).temperature
            sure, answer = torch.softmax(logits[others].double() / t, dim=1).max(dim=1)
            answered = sure >= found["threshold"]
            accuracy = float((answer == labels[others])[answered].double().mean())
            said += 1
            broken += accuracy < found["target_accuracy"]
            accuracies.append(accuracy)
            shares.append(float(answered.double().mean()))
        told = f"accuracy {np.mean(accuracies):.3f}, answers {np.mean(shares):.2f}" if said else ""
        yield f"    {count:3d} images: recommends in {said / (DRAWS * 5):.0%}, too low in {broken}/{said}  {told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", default="temperature,priors,threshold")
    parser.add_argument("--sets", default="real,fonts,shapes")
    parser.add_argument("--methods", default=",".join(METHODS))
    args = parser.parse_args()
    what = args.what.split(",")
    backbone = load_backbone("demo")
    for data in sets(backbone, args.sets.split(",")):
        k = len(data.classes)
        for method in args.methods.split(","):
            config = TuneConfig(method=method)
            for shots in (4, 16):
                uneven = [
                    max(1, round(shots * 2 * 8 ** (-i / (k - 1)))) for i in range(k)
                ]  # the first 8 times the last
                if {"temperature", "threshold"} & set(what):
                    chosen = draw(data.labels, [shots] * k, 0)
                    logits, labels = tuned_logits(backbone, data, chosen, config)
                    accuracy = float((logits.argmax(1) == labels).double().mean())
                    print(f"{data.name} {method} {shots} shots: accuracy {accuracy:.3f}", flush=True)  # noqa: T201
                    rows: list[str] = []
                    if "temperature" in what:
                        rows += [*temperature_rows(logits, labels, 0.0), *temperature_rows(logits, labels, 1.0)]
                    if "threshold" in what:
                        rows += threshold_rows(logits, labels)
                    print("\n".join(rows), flush=True)  # noqa: T201
                if "priors" in what:
                    for adjust in (0.0, 1.0) if method == "coop" else (0.0,):
                        chosen = draw(data.labels, uneven, 0)
                        own = TuneConfig(method=method, logit_adjustment=adjust)
                        logits, labels = tuned_logits(backbone, data, chosen, own)
                        shares = torch.tensor(uneven, dtype=torch.float64) / sum(uneven)
                        print(f"{data.name} {method} {uneven} logit_adjustment {adjust:g}", flush=True)  # noqa: T201
                        print("\n".join(prior_rows(logits.double(), labels, shares)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
