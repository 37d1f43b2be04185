"""How well the audit finds what was put into a data set, and what the comparison of many pictures costs.

    .venv/bin/python -m benchmarks.audit            # near duplicates, label errors, outliers on the demo backbone
    .venv/bin/python -m benchmarks.audit --scale    # time and memory of 60,000 pictures' hashes and features

Near duplicates: real digits, drawn shapes and tiles of three photographs, each beside a changed copy of itself and
beside every other picture of its set. Label errors: 5 % of the labels turned over. Outliers: 2 % strangers.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from npt_core.audit.crossval import judge
from npt_core.audit.hashing import picture_hash
from npt_core.audit.near import near_pairs
from npt_core.audit.telling import doubtful, strangers
from npt_core.clip import Backbone, load_backbone
from npt_core.clip.demo import draw
from npt_core.clip.demo.real_digits import load_half

Pictures = list[Image.Image]
EACH, TILE, DRAWS = 200, 106, 3


def tiles() -> Pictures:
    """Tiles of the photographs that scikit-learn and matplotlib carry; no two overlap."""
    import matplotlib
    import sklearn

    photos = Path(sklearn.__file__).parent / "datasets" / "images"
    face = Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    found = []
    for path in (photos / "china.jpg", photos / "flower.jpg", face):
        image = Image.open(path).convert("RGB")
        for top in range(0, image.height - TILE + 1, TILE):
            for left in range(0, image.width - TILE + 1, TILE):
                found.append(image.crop((left, top, left + TILE, top + TILE)))
    return found


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    size = (max(8, int(image.width * factor)), max(8, int(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, keep: float) -> Image.Image:
    """A fixed corner part: the least favourable place for a crop."""
    return image.crop((0, 0, round(image.width * keep), round(image.height * keep)))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 50": lambda image: jpeg(image, 50),
    "JPEG 25": lambda image: jpeg(image, 25),
    "half size": lambda image: resized(image, 0.5),
    "1.5 times": lambda image: resized(image, 1.5),
    "half size, JPEG 60": lambda image: jpeg(resized(image, 0.5), 60),
    "10 % brighter": lambda image: image.point(lambda value: min(255, int(value * 1.1))),
    "crop to 98 %": lambda image: cropped(image, 0.98),
    "crop to 95 %": lambda image: cropped(image, 0.95),
    "crop to 90 %": lambda image: cropped(image, 0.9),
}


def features_of(backbone: Backbone, pictures: Sequence[Image.Image]) -> np.ndarray:
    parts = [
        backbone.encode_images(torch.stack([backbone.load_pixels(one) for one in pictures[start : start + 64]]))
        for start in range(0, len(pictures), 64)
    ]
    return torch.cat(parts).cpu().numpy()


def near_duplicates(backbone: Backbone) -> None:
    digits = [image.convert("RGB") for image in load_half("look").pictures()[:EACH]]
    shapes = [Image.fromarray(image) for image in draw.draw_shapes(EACH, 77).images]
    sets = {"real digits": digits, "drawn shapes": shapes, "tiles of photographs": tiles()}
    print("| found of each kind of copy | " + " | ".join(sets) + " |")
    print("|---|" + "---|" * len(sets))
    columns = {}
    for name, pictures in sets.items():
        hashes, features = np.stack([picture_hash(one) for one in pictures]), features_of(backbone, pictures)
        column = {}
        for change, function in CHANGES.items():
            copies = [function(one) for one in pictures]
            both = np.stack([picture_hash(one) for one in copies]), features_of(backbone, copies)
            n = len(pictures)
            pairs = near_pairs(np.concatenate([hashes, both[0]]), np.concatenate([features, both[1]]))
            column[change] = sum(b - a == n for a, b in pairs.tolist()) / n
        wrong = len(near_pairs(hashes, features))
        column["*different pictures taken for copies*"] = f"{wrong} of {n * (n - 1) // 2:,} pairs"
        columns[name] = column
    for row in next(iter(columns.values())):
        cells = [columns[name][row] for name in sets]
        print(f"| {row} | " + " | ".join(c if isinstance(c, str) else f"{c:.0%}" for c in cells) + " |")


def labelled(backbone: Backbone) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    digits = load_half("look")
    drawn = draw.draw_shapes(600, 77)
    return {
        "digits": (features_of(backbone, [one.convert("RGB") for one in digits.pictures()]), np.array(digits.labels)),
        "shapes": (features_of(backbone, [Image.fromarray(one) for one in drawn.images]), np.array(drawn.labels)),
    }


def few(labels: np.ndarray, each: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:each] for label in np.unique(labels)])


def flags_at(positions: Sequence[int], n: int) -> np.ndarray:
    flags = np.zeros(n, bool)
    flags[list(positions)] = True
    return flags


def label_flips(sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    print("\n| 5 % of labels turned over | pictures | flagged | precision | recall | flagged with true labels |")
    print("|---|---|---|---|---|---|")
    for name, (features, labels) in sets.items():
        for each in (4, 8, 16, 40, 1000):
            rows = []
            for seed in range(DRAWS):
                keep = few(labels, each, seed)
                names, truth = np.unique(labels[keep], return_inverse=True)
                rng = np.random.default_rng(100 + seed)
                turned = rng.permutation(len(truth))[: max(1, round(0.05 * len(truth)))]
                given = truth.copy()
                given[turned] = (given[turned] + rng.integers(1, len(names), len(turned))) % len(names)
                is_wrong = given != truth
                flags, clean = (_doubted(features[keep], y, names) for y in (given, truth))
                hits = (flags & is_wrong).sum()
                rows.append((flags.sum(), hits / max(1, flags.sum()), hits / is_wrong.sum(), clean.sum()))
            mean = np.mean(rows, axis=0)
            print(
                f"| {name}, {'all' if each == 1000 else each} a class | {len(keep)} | {mean[0]:.1f} | {mean[1]:.2f} | "
                f"{mean[2]:.2f} | {mean[3]:.1f} |"
            )
            if len(keep) == len(labels):
                break


def _doubted(features: np.ndarray, labels: np.ndarray, names: np.ndarray) -> np.ndarray:
    judged = judge(features, labels, list(range(len(labels))), len(names))
    return flags_at(doubtful(labels, judged), len(labels))


def guests_found(sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    print("\n| 2 % of pictures from another set | pictures | flagged | precision | recall |")
    print("|---|---|---|---|---|")
    for name, other in (("digits", "shapes"), ("shapes", "digits")):
        for each in (8, 16, 40):
            rows = []
            for seed in range(DRAWS):
                keep = few(sets[name][1], each, seed)
                rng = np.random.default_rng(200 + seed)
                guests = rng.permutation(len(sets[other][0]))[: max(1, round(0.02 * len(keep)))]
                names, own = np.unique(sets[name][1][keep], return_inverse=True)
                labels = np.concatenate([own, rng.integers(0, len(names), len(guests))])
                features = np.concatenate([sets[name][0][keep], sets[other][0][guests]])
                judged = judge(features, labels, list(range(len(labels))), len(names))
                flags = flags_at(strangers(judged), len(labels))
                hits = flags[len(keep) :].sum()
                rows.append((flags.sum(), hits / max(1, flags.sum()), hits / len(guests)))
            mean = np.mean(rows, axis=0)
            cells = f"{len(keep)} | {mean[0]:.1f} | {mean[1]:.2f} | {mean[2]:.2f}"
            print(f"| {other} among {name}, {each} a class | {cells} |")


def scale(n: int = 60_000, d: int = 512, classes: int = 100) -> None:
    """Random hashes and features with one copy in a hundred: time and the most memory of the process."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    centres = rng.normal(0, 1, (classes, d)).astype(np.float32)
    features = centres[labels] + rng.normal(0, 1, (n, d)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    hashes = rng.integers(0, 2**64, (n, 4), dtype=np.uint64)
    copies = rng.permutation(n)[: n // 100]
    hashes[copies[::2]], features[copies[::2]] = hashes[copies[1::2]], features[copies[1::2]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    pairs = near_pairs(hashes, features)
    middle = time.process_time()
    judge(features, labels, list(range(n)), classes)
    ended = time.process_time()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n:,} pictures, d = {d}, {classes} classes: {len(pairs)} pairs found of {len(copies) // 2} put in")
    print(f"comparison {middle - started:.0f} s of one core, cross-validation {ended - middle:.0f} s")
    print(f"memory {before:.0f} MiB with the inputs, {after:.0f} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", action="store_true", help="time and memory for 60,000 pictures")
    if parser.parse_args().scale:
        scale()
        return
    backbone = load_backbone("demo", device="cpu")
    near_duplicates(backbone)
    sets = labelled(backbone)
    label_flips(sets)
    guests_found(sets)


if __name__ == "__main__":
    main()
