"""How much faster the exact fast text path is than the whole context, forward and backward to the context vectors.

    python -m benchmarks.text_path                        # 10 and 100 classes, ViT-B/16 text shapes, 2 threads
    python -m benchmarks.text_path --classes 1000 --chunk 100 --repeats 1

Both sides run in this process, in turns, on random weights of the published shapes (width 512, 12 layers, 8 heads,
77 positions); the medians are compared. The reference is compared with open_clip's own `encode_text` on the same
tokens, and the fast path with the reference: features and gradient. Exits 1 where they differ or a wanted ratio is
missed. "cpu" is the ratio of processor time, which says more than the clock on a machine that does other work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from open_clip.model import CLIP

from npt_core.clip.prompts import PromptBatch
from npt_core.clip.text import TextTower

WIDTH, LAYERS, HEADS, CONTEXT, VOCABULARY = 512, 12, 8, 77, 49408
WANTED = {10: 7.5, 100: 18.0}  # at prefix 17 and suffix 4 on two threads


def build_tower(seed: int) -> tuple[CLIP, TextTower]:
    torch.manual_seed(seed)
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": WIDTH, "heads": HEADS, "layers": LAYERS}
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}  # the image side is not measured
    model = CLIP(embed_dim=512, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval().requires_grad_(False)
    return model, TextTower(model, name="ViT-B-16", dtype=torch.float32)


def make_tokens(k: int, prefix: int, suffix: int, seed: int) -> torch.Tensor:
    """(k, 77) ids: SOS, prefix - 1 words shared by all, suffix - 1 words of each class, EOT, padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(k, CONTEXT, dtype=torch.int64)
    tokens[:, 0] = VOCABULARY - 2
    tokens[:, 1:prefix] = torch.randint(1, VOCABULARY - 2, (prefix - 1,), generator=generator)
    tokens[:, prefix : prefix + suffix - 1] = torch.randint(1, VOCABULARY - 2, (k, suffix - 1), generator=generator)
    tokens[:, prefix + suffix - 1] = VOCABULARY - 1
    return tokens


def measure(
    tower: TextTower, model: CLIP, *, k: int, prefix: int, suffix: int, repeats: int, chunk: int | None
) -> dict[str, float]:
    tokens = make_tokens(k, prefix, suffix, seed=k)
    ctx = tower.embed(tokens[0, 1:prefix]).requires_grad_()
    sos, tail = tower.embed(tokens[0, :1]), tower.embed(tokens[:, prefix : prefix + suffix])
    eot = torch.full((k,), prefix + suffix - 1)
    target = torch.randn(k, tower.d, generator=torch.Generator().manual_seed(1))

    def step(path: str) -> tuple[torch.Tensor, torch.Tensor]:
        batch = PromptBatch(torch.cat([sos, ctx]), tail, eot)
        features = tower.encode_prompts(batch, path=path, chunk=chunk)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad((features * target).sum(), ctx)
        return features.detach(), gradient

    def timed(path: str) -> tuple[float, float, torch.Tensor, torch.Tensor]:
        start, worked = time.perf_counter(), time.process_time()
        features, gradient = step(path)
        return time.perf_counter() - start, time.process_time() - worked, features, gradient

    step("fast")  # warm up both
    _, reference, wanted = timed("reference")[1:]
    with torch.no_grad():
        own = model.encode_text(tokens, normalize=True)
    clock: dict[str, list[float]] = {"reference": [], "fast": []}
    cpu: dict[str, list[float]] = {"reference": [], "fast": []}
    for _ in range(repeats):
        for path, times in (("reference", 1), ("fast", 3)):  # short runs: three for each long one
            for _ in range(times):
                seconds, worked, features, gradient = timed(path)
                clock[path].append(seconds)
                cpu[path].append(worked)
    slow, fast = (statistics.median(clock[path]) for path in ("reference", "fast"))
    return {
        "classes": k,
        "prefix": prefix,
        "suffix": suffix,
        "reference_s": slow,
        "fast_s": fast,
        "ratio": slow / fast,
        "cpu_ratio": statistics.median(cpu["reference"]) / statistics.median(cpu["fast"]),
        "reference_vs_open_clip": float((reference - own).abs().max()),
        "features": float((features - reference).abs().max()),
        "gradient": float((gradient - wanted).norm() / wanted.norm()),
    }


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

    print(f"ViT-B/16 text tower, fp32, {args.threads} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"prefix {args.prefix}, suffix {args.suffix}, forward + backward to the context, medians of {args.repeats}")
    good = True
    row: Callable[..., str] = "{:>8} {:>12} {:>9} {:>7} {:>7} {:>10} {:>10} {:>12}".format
    print(row("classes", "reference s", "fast s", "ratio", "cpu", "features", "gradient", "= open_clip"))
    for k in args.classes:
        shapes = {"prefix": args.prefix, "suffix": args.suffix}
        out = measure(tower, model, k=k, **shapes, repeats=args.repeats, chunk=args.chunk)
        numbers = [f"{out[key]:.1e}" for key in ("features", "gradient", "reference_vs_open_clip")]
        ratios = [f"{out[key]:.1f}x" for key in ("ratio", "cpu_ratio")]
        print(row(k, f"{out['reference_s']:.3f}", f"{out['fast_s']:.4f}", *ratios, *numbers), flush=True)
        if args.json:
            print(json.dumps(out))
        equal = out["features"] < 1e-5 and out["gradient"] < 1e-4 and out["reference_vs_open_clip"] < 1e-5
        wanted = WANTED.get(k, 0.0) if (args.prefix, args.suffix, args.chunk) == (17, 4, None) else 0.0
        if not equal or out["ratio"] < wanted:
            print(f"  {'missed: wanted ' + str(wanted) + 'x' if equal else 'the two sides differ'}")
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
