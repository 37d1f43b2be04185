"""One step of each method, ours against the straightforward form of the published code: time and memory.

    python -m benchmarks.methods                            # ViT-B/16 shapes, 10 classes, 2 threads; about six minutes
    python -m benchmarks.methods --only maple --batch 8     # one method
    python -m benchmarks.methods --tiny                     # does it run? no figures

Random weights of the published shapes, methods as they start (learned parameters moved away from zero). A step is the
forward pass, the loss with the method's own terms, and the gradients of all that is learned. Ours begins with what a
tuning has at hand when a step begins: features of the frozen image tower and of frozen texts, encoded once a tuning and
cached. The other side is `straightforward.py`. Both run in this process, in turns; medians are compared, and loss and
gradients must agree. "cpu" is the ratio of processor time, which says more than the clock where other work runs. Memory
is what autograd keeps between the two passes, the frozen weights left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.shapes import VIT_B_16, random_backbone
from benchmarks.straightforward import Straight
from npt_core.clip.backbone import Backbone
from npt_core.clip.tokens import ClassPrompt
from npt_core.methods import ImageBatch, ImageInput, get_method

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3},
}
NOUNS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
KINDS = ("", "large", "small", "old", "young", "red", "blue", "white", "black", "green", "round", "wild")

LOSS, GRADIENT = 1e-4, 1e-3
"""Relative differences that are accepted: single precision, batches of other shapes, a logit scale of 14."""


@dataclass(frozen=True)
class Case:
    """A method as it is measured."""

    title: str
    method: str
    batch: int
    config: dict[str, Any]


CASES = (
    Case("CoCoOp", "cocoop", 1, {}),
    Case("CoCoOp", "cocoop", 4, {}),
    Case("MaPLe", "maple", 4, {}),
    Case("VPT shallow", "vpt", 4, {"prompt_depth": 1}),
    Case("VPT deep", "vpt", 4, {}),
    Case("UPT", "upt", 4, {}),
    Case("PromptSRC", "promptsrc", 4, {}),
    Case("DPT", "dpt", 4, {"candidates": 5}),
    Case("APT", "apt", 4, {}),
)


class Sides:
    """One case, and the step of each side."""

    def __init__(self, case: Case, backbone: Backbone, k: int) -> None:
        cls = get_method(case.method)
        names = [f"{kind} {noun}".strip() for kind in KINDS for noun in NOUNS][:k]
        classes = [ClassPrompt(name) for name in names]
        g = torch.Generator().manual_seed(1)
        self.method = cls(cls.Config(**case.config), backbone, classes, generator=g)
        for parameter in self.method.parameters():  # maps that start at zero would make a gradient of nothing
            parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=g))
        self.parameters = {n: p for n, p in self.method.named_parameters() if p.numel()}
        pixels = torch.randn(case.batch, 3, *backbone.image_size, generator=g)
        labels = torch.arange(case.batch) % k
        self.batch = self._at_hand(backbone, pixels, labels)
        self.straight = Straight(backbone._model, self.method, names, pixels, labels)  # noqa: SLF001
        if cls.has_text_features:
            self.method.zero_shot_text()  # frozen, encoded once a tuning

    def _at_hand(self, backbone: Backbone, pixels: Tensor, labels: Tensor) -> ImageBatch:
        """What a tuning hands to a step."""
        with torch.no_grad():
            seen = backbone.image.encode_tokens(pixels)
        wants = self.method.image_input
        if wants is ImageInput.PIXELS:
            frozen = seen.pooled if self.method.reads_frozen_features else None
            return ImageBatch(frozen, pixels=pixels, labels=labels)
        return ImageBatch(seen.pooled, seen.tokens if wants is ImageInput.TOKENS else None, None, labels)

    def ours(self) -> Tensor:
        output = self.method(self.batch)
        assert self.batch.labels is not None
        loss = self.method.classification_loss(output, self.batch.labels)
        return sum(self.method.named_losses(self.batch, output).values(), loss)

    def step(self, loss: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
        total = loss()
        gradients = torch.autograd.grad(total, list(self.parameters.values()), allow_unused=True)
        found = {name: one for name, one in zip(self.parameters, gradients, strict=True) if one is not None}
        return float(total.detach()), found


def timed(sides: Sides, loss: Callable[[], Tensor]) -> tuple[float, float]:
    start, worked = time.perf_counter(), time.process_time()
    sides.step(loss)
    return time.perf_counter() - start, time.process_time() - worked


def kept(backbone: Backbone, loss: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, without the frozen weights."""
    frozen = {t.untyped_storage().data_ptr() for t in backbone._model.parameters()}  # noqa: SLF001
    storages: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in frozen:
            storages[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        total = loss()
    del total
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def measure(case: Case, backbone: Backbone, k: int, repeats: int) -> dict[str, float]:
    """Compare what the sides return, then time them in turns."""
    sides = Sides(case, backbone, k)
    losses = {"straight": sides.straight.loss, "ours": sides.ours}
    (theirs, wanted), (mine, found) = (sides.step(loss) for loss in losses.values())  # warms up, too
    assert found.keys() == wanted.keys() and found, case  # noqa: PT018
    worst = max(float((found[n] - wanted[n]).norm() / wanted[n].norm()) for n in found)
    clock: dict[str, list[float]] = {name: [] for name in losses}
    cpu: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(repeats):
        for name, loss in losses.items():
            seconds, worked = timed(sides, loss)
            clock[name].append(seconds)
            cpu[name].append(worked)
    median = {name: statistics.median(times) for name, times in clock.items()}
    return {
        "straight_s": median["straight"],
        "ours_s": median["ours"],
        "ratio": median["straight"] / median["ours"],
        "cpu_ratio": statistics.median(cpu["straight"]) / statistics.median(cpu["ours"]),
        "loss": abs(theirs - mine) / abs(theirs),
        "gradient": worst,
        **{f"{name}_mib": kept(backbone, loss) / 2**20 for name, loss in losses.items()},
    }


def measure_plain(backbone: Backbone, count: int, repeats: int) -> tuple[float, float, float]:
    """Frozen pictures without prompts: seconds of open_clip's own forward pass, of ours, and how far they are apart."""
    pixels = torch.randn(count, 3, *backbone.image_size, generator=torch.Generator().manual_seed(2))
    model: Any = backbone._model  # noqa: SLF001
    clock: dict[str, list[float]] = {"straight": [], "ours": []}
    with torch.no_grad():
        apart = float((model.encode_image(pixels, normalize=True) - backbone.encode_images(pixels)).abs().max())
        for _ in range(repeats):
            for name, encode in (("straight", model.encode_image), ("ours", backbone.encode_images)):
                start = time.perf_counter()
                encode(pixels)
                clock[name].append(time.perf_counter() - start)
    return statistics.median(clock["straight"]), statistics.median(clock["ours"]), apart


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", help="methods, by name")
    parser.add_argument("--classes", type=int, default=10, help=f"at most {len(KINDS) * len(NOUNS)}")
    parser.add_argument("--batch", type=int, help="images, in the place of each method's own number")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="small towers, to try the script out")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    backbone = random_backbone(TINY if args.tiny else VIT_B_16)
    load = os.getloadavg()[0]
    print(f"ViT-B/16 shapes, {args.classes} classes, {args.threads} threads of {os.cpu_count()} cores, load {load:.1f}")
    row: Callable[..., str] = "{:>12} {:>6} {:>11} {:>8} {:>7} {:>7} {:>13} {:>9} {:>9} {:>9}".format
    print(row("", "batch", "straight s", "ours s", "ratio", "cpu", "straight MiB", "MiB", "loss", "gradient"))
    good = True
    for case in CASES:
        if args.only and case.method not in args.only:
            continue
        if args.batch:
            case = Case(case.title, case.method, args.batch, case.config)
        out = measure(case, backbone, args.classes, args.repeats)
        cells = [f"{out['straight_s']:.3f}", f"{out['ours_s']:.3f}", f"{out['ratio']:.2f}x", f"{out['cpu_ratio']:.2f}x"]
        cells += [
            f"{out['straight_mib']:.0f}",
            f"{out['ours_mib']:.0f}",
            f"{out['loss']:.1e}",
            f"{out['gradient']:.1e}",
        ]
        print(row(case.title, case.batch, *cells), flush=True)
        if out["loss"] > LOSS or out["gradient"] > GRADIENT:
            print("  missed: the two sides differ")
            good = False
    if not args.only:
        count = args.batch or 8
        theirs, ours, apart = measure_plain(backbone, count, args.repeats)
        print(
            f"{count} plain pictures: {theirs:.3f} s, ours {ours:.3f} s, {theirs / ours:.2f}x, features to {apart:.1e}"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
