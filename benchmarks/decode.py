"""What decoding a large JPEG at a reduced size saves, and what it changes.

    .venv/bin/python -m benchmarks.decode

The pictures are drawn. Both decodes end in the square that the image tower sees; the difference there is in grey levels
of 255.
"""

from __future__ import annotations

import io
import statistics
import time

import numpy as np
import torch
from PIL import Image

from npt_core.clip.preprocess import PreprocessConfig
from npt_core.data.images import decode_image

SIZES = [(640, 480), (1600, 1200), (4000, 3000)]
TARGETS = (64, 224)
REPEATS = 7


def drawn(width: int, height: int) -> bytes:
    """Waves of all lengths, grain and hard edges, as a JPEG of quality 90."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(width, height)
    pixels = np.full((height, width, 3), 128, np.float32)
    for channel in range(3):
        for _ in range(6):
            u, v = rng.normal(0, 12, 2)
            pixels[..., channel] += rng.uniform(5, 30) * np.sin(2 * np.pi * (u * x + v * y + rng.random()))
    pixels += rng.normal(0, 6, pixels.shape)
    for _ in range(20):
        top, left = rng.integers(0, height), rng.integers(0, width)
        pixels[top : top + height // 8, left : left + width // 8] = rng.integers(0, 256, 3)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def main() -> None:
    torch.set_num_threads(1)
    print(f"medians of {REPEATS}, one core\n")
    print("| picture | square | decoded in full, ms | reduced, ms | times faster | mean levels | 99 % within |")
    print("|---|---|---|---|---|---|---|")
    for width, height in SIZES:
        data = drawn(width, height)
        for target in TARGETS:
            preprocess = PreprocessConfig(size=(target, target))
            ways = {"full": None, "reduced": target}
            found: dict[str, list[float]] = {way: [] for way in ways}
            seen = {}
            for _ in range(REPEATS):
                for way, to in ways.items():
                    began = time.process_time()
                    seen[way] = preprocess.transform(decode_image(data, target=to))
                    found[way].append(1000 * (time.process_time() - began))
            std = torch.tensor(preprocess.std)[:, None, None] * 255
            apart = ((seen["full"] - seen["reduced"]) * std).abs().flatten()
            full, reduced = (statistics.median(found[way]) for way in ways)
            print(
                f"| {width} × {height} | {target} | {full:.1f} | {reduced:.1f} | {full / reduced:.1f} | "
                f"{apart.mean():.2f} | {apart.quantile(0.99):.0f} |"
            )


if __name__ == "__main__":
    main()
