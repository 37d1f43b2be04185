"""How much faster the exact fast text path is than the whole context, forward and backward to the context vectors.

    python -m benchmarks.text_path                        # 10 and 100 classes, ViT-B/16 text shapes, 2 threads
    python -m benchmarks.text_path --classes 1000 --repeats 1    # about five minutes

All sides run in this process, in turns, on random weights of the published shapes (width 512, 12 layers, 8 heads,
77 positions); the medians are compared. The reference is compared with open_clip's own `encode_text` on the same
tokens, and the fast path with the reference: features and gradient. The fast path in bf16, where the CPU has it, is
compared with the fast path in fp32. Exits 1 where they differ or a wanted ratio is missed. "cpu" is the ratio of
processor time, which says more than the clock on a machine that does other work.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from open_clip.model import CLIP
from torch import Tensor

from npt_core.clip.precision import cast_towers
from npt_core.clip.prompts import PromptBatch
from npt_core.clip.text import Path, TextTower

WIDTH, LAYERS, HEADS, CONTEXT, VOCABULARY = 512, 12, 8, 77, 49408
WANTED_BF16 = 1.5
BF16_COSINE, BF16_GRADIENT = 0.9995, 0.03  # the bound of bf16: least cosine to fp32's feature, relative gradient
WANTED = {10: 7.5, 100: 18.0, 1000: 15.0}  # at prefix 17 and suffix 4 on two threads
REFERENCE_AT_ONCE = 100
"""Classes of the whole context whose activations are held together: each needs 27 MiB. Nothing is computed twice."""


def build_tower(seed: int) -> tuple[CLIP, TextTower]:
    torch.manual_seed(seed)
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": WIDTH, "heads": HEADS, "layers": LAYERS}
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}  # the image side is not measured
    model = CLIP(embed_dim=512, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval().requires_grad_(False)
    return model, TextTower(model, name="ViT-B-16", dtype=torch.float32)


def make_tokens(k: int, prefix: int, suffix: int, seed: int) -> Tensor:
    """(k, 77) ids: SOS, prefix - 1 words shared by all, suffix - 1 words of each class, EOT, padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(k, CONTEXT, dtype=torch.int64)
    tokens[:, 0] = VOCABULARY - 2
    tokens[:, 1:prefix] = torch.randint(1, VOCABULARY - 2, (prefix - 1,), generator=generator)
    tokens[:, prefix : prefix + suffix - 1] = torch.randint(1, VOCABULARY - 2, (k, suffix - 1), generator=generator)
    tokens[:, prefix + suffix - 1] = VOCABULARY - 1
    return tokens


def computes_bf16() -> bool:
    """Whether this CPU multiplies in bf16; elsewhere it would be emulated, slower than fp32."""
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


@dataclass(frozen=True)
class Side:
    """One way to encode the prompts: a tower, its path, and how many classes it takes at once."""

    tower: TextTower
    path: Path
    at_once: int
    chunk: int | None = None


class Prompts:
    """K prompts with a learned context, and the step that is timed."""

    def __init__(self, tower: TextTower, *, k: int, prefix: int, suffix: int) -> None:
        self.tokens = make_tokens(k, prefix, suffix, seed=k)
        self.ctx = tower.embed(self.tokens[0, 1:prefix]).requires_grad_()
        self.sos, self.tail = tower.embed(self.tokens[0, :1]), tower.embed(self.tokens[:, prefix : prefix + suffix])
        self.eot = torch.full((k,), prefix + suffix - 1)
        self.target = torch.randn(k, tower.d, generator=torch.Generator().manual_seed(1))

    def step(self, side: Side) -> tuple[Tensor, Tensor]:
        """Return the (k, d) features and the gradient of the context, summed over the pieces."""
        pieces = [self._piece(side, slice(at, at + side.at_once)) for at in range(0, len(self.eot), side.at_once)]
        return torch.cat([features for features, _ in pieces]), torch.stack([grad for _, grad in pieces]).sum(dim=0)

    def _piece(self, side: Side, part: slice) -> tuple[Tensor, Tensor]:
        batch = PromptBatch(torch.cat([self.sos, self.ctx]), self.tail[part], self.eot[part])
        features = side.tower.encode_prompts(batch, path=side.path, chunk=side.chunk)
        (gradient,) = torch.autograd.grad((features * self.target[part]).sum(), self.ctx)
        return features.detach(), gradient

    def timed(self, side: Side) -> tuple[float, float]:
        """Return seconds by the clock and of processor time."""
        start, worked = time.perf_counter(), time.process_time()
        self.step(side)
        return time.perf_counter() - start, time.process_time() - worked


def measure(
    model: CLIP, towers: dict[str, TextTower], *, k: int, prefix: int, suffix: int, repeats: int, chunk: int | None
) -> dict[str, float]:
    """Time every side in turns, and compare what they return."""
    exact = towers["fp32"]
    prompts = Prompts(exact, k=k, prefix=prefix, suffix=suffix)
    sides = {"reference": Side(exact, "reference", REFERENCE_AT_ONCE)}
    sides.update({name: Side(tower, "fast", k, chunk) for name, tower in towers.items()})
    features, gradients = {}, {}
    for name, side in sides.items():  # warms up, too
        features[name], gradients[name] = prompts.step(side)
    with torch.no_grad():
        own = torch.cat([model.encode_text(part, normalize=True) for part in prompts.tokens.split(REFERENCE_AT_ONCE)])
    clock: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            if name != "reference":
                prompts.timed(side)  # memory that the other side gave back is fetched here, not in what counts
            for _ in range(1 if name == "reference" else 3):  # short runs: three for each long one
                seconds, worked = prompts.timed(side)
                clock[name].append(seconds)
                cpu[name].append(worked)
    median = {name: statistics.median(times) for name, times in clock.items()}
    out = {
        "classes": k,
        "prefix": prefix,
        "suffix": suffix,
        "reference_s": median["reference"],
        "fast_s": median["fp32"],
        "ratio": median["reference"] / median["fp32"],
        "cpu_ratio": statistics.median(cpu["reference"]) / statistics.median(cpu["fp32"]),
        "reference_vs_open_clip": float((features["reference"] - own).abs().max()),
        "features": float((features["fp32"] - features["reference"]).abs().max()),
        "gradient": _relative(gradients["fp32"], gradients["reference"]),
    }
    if "bf16" in towers:
        out["bf16_s"] = median["bf16"]
        out["bf16_ratio"] = median["fp32"] / median["bf16"]
        out["bf16_cosine"] = float((features["bf16"] * features["reference"]).sum(dim=1).min())
        out["bf16_gradient"] = _relative(gradients["bf16"], gradients["reference"])
    return out


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def verdict(out: dict[str, float], chunk: int | None) -> list[str]:
    """Say what was missed."""
    faults = []
    if out["features"] > 1e-5 or out["gradient"] > 1e-4 or out["reference_vs_open_clip"] > 1e-5:
        faults.append("the two sides differ")
    wanted = WANTED.get(int(out["classes"]), 0.0) if (out["prefix"], out["suffix"], chunk) == (17, 4, None) else 0.0
    if out["ratio"] < wanted:
        faults.append(f"wanted {wanted} x")
    if "bf16_s" in out:
        if out["bf16_cosine"] < BF16_COSINE or out["bf16_gradient"] > BF16_GRADIENT:
            faults.append("bf16 is out of its bound")
        if wanted and out["bf16_ratio"] < WANTED_BF16:
            faults.append(f"wanted {WANTED_BF16} x of bf16 over fp32")
    return faults


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--prefix", type=int, default=17, help="shared positions: SOS and the context vectors")
    parser.add_argument("--suffix", type=int, default=4, help="positions of each class: name, full stop, EOT")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=None, help="classes computed at once, with checkpointing")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line as well")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model, tower = build_tower(seed=0)
    towers = {"fp32": tower}
    if computes_bf16():
        narrow = cast_towers(copy.deepcopy(model), "bf16")
        towers["bf16"] = TextTower(narrow, name="ViT-B-16", dtype=torch.bfloat16)

    print(f"ViT-B/16 text tower, {args.threads} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"prefix {args.prefix}, suffix {args.suffix}, forward + backward to the context, medians of {args.repeats}")
    if "bf16" not in towers:
        print("this CPU does not compute in bf16")
    good = True
    row: Callable[..., str] = "{:>8} {:>9} {:>9} {:>7} {:>7} {:>9} {:>9} {:>11} {:>9} {:>6} {:>10} {:>9}".format
    heads = [
        "whole s",
        "fast s",
        "ratio",
        "cpu",
        "features",
        "gradient",
        "open_clip",
        "bf16 s",
        "ratio",
        "cosine",
        "grad",
    ]
    print(row("classes", *heads))
    for k in args.classes:
        shapes = {"prefix": args.prefix, "suffix": args.suffix}
        out = measure(model, towers, k=k, **shapes, repeats=args.repeats, chunk=args.chunk)
        cells = [
            f"{out['reference_s']:.3f}",
            f"{out['fast_s']:.4f}",
            f"{out['ratio']:.1f}x",
            f"{out['cpu_ratio']:.1f}x",
        ]
        cells += [f"{out[key]:.1e}" for key in ("features", "gradient", "reference_vs_open_clip")]
        if "bf16_s" in out:
            cells += [f"{out['bf16_s']:.4f}", f"{out['bf16_ratio']:.2f}x"]
            cells += [f"{out['bf16_cosine']:.6f}", f"{out['bf16_gradient']:.1e}"]
        print(row(k, *cells, *[""] * (len(heads) - len(cells))), flush=True)
        if args.json:
            print(json.dumps(out))
        for fault in verdict(out, args.chunk):
            print(f"  missed: {fault}")
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
