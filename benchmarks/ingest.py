"""How fast pictures come in: a zip of 60,000 judged, hashed and decoded, and a 2 GiB upload over HTTP.

    .venv/bin/python -m benchmarks.ingest                     # both, each beside what it is compared with
    .venv/bin/python -m benchmarks.ingest --part zip --images 6000 --repeats 1

The pictures are drawn, 96 by 96 pixels, no two alike, in 100 classes. Pillow alone decodes the same files from memory
with as many threads as the audit has. The upload goes to a real API in a process of its own and is compared with
`sha256sum` of the same file on the same disk.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.ingest_upload import upload

CLASSES, SIDE, BASES = 100, 96, 500
INDEXED_PER_S = 5000
DECODED_RATIO = 0.8
GROWTH_MIB = 200
MIB = 2**20


def drawn(n: int, seed: int) -> Iterator[bytes]:
    """So many different JPEG files: smooth colours with a little noise, moved about."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)[..., None] / SIDE
    bases = []
    for _ in range(BASES):
        a, b, c = rng.random((3, 3))
        base = (a * x + b * y + c * np.sin(6 * (x + y))) * 120 + 40 + rng.normal(0, 4, (SIDE, SIDE, 3))
        bases.append(base.clip(0, 255).astype(np.uint8))
    for number in range(n):
        image = np.roll(bases[number % BASES], tuple(rng.integers(0, SIDE, 2)), (0, 1))
        row, column = rng.integers(0, SIDE - 16, 2)
        image[row : row + 16, column : column + 16] = rng.integers(0, 256, 3)
        out = io.BytesIO()
        Image.fromarray(image).save(out, "JPEG", quality=85)
        yield out.getvalue()


def write_pictures(path: Path, n: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, data in enumerate(drawn(n, 7)):
            archive.writestr(f"class {number % CLASSES:03d}/{number:06d}.jpg", data)


class Peak:
    """Memory of this process that a block adds at most, in MiB (Linux)."""

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins again at what is resident now
        self._before = self._read("VmRSS")
        self.grown = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.grown = self._read("VmHWM") - self._before

    @staticmethod
    def _read(name: str) -> float:
        (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{name}:"))
        return int(line.split()[1]) / 1024


def index(path: Path) -> dict[str, float]:
    """Judge, hash and index the zip as an upload is, to the manifest that is stored."""
    from npt_core.data.dataset import Dataset

    with Peak() as peak:
        began, core = time.perf_counter(), time.process_time()
        with Dataset.from_archive(path) as dataset:
            manifest = json.dumps(dataset.to_manifest(), separators=(",", ":"))
        took, core = time.perf_counter() - began, time.process_time() - core
    return {"n": len(dataset.samples), "seconds": took, "core": core, "grown": peak.grown, "manifest": len(manifest)}


def decode(path: Path, repeats: int) -> dict[str, Any]:
    """The audit's way to every pixel beside Pillow's, in turns; as many threads for both."""
    from npt_core.audit.hashing import picture_hash
    from npt_core.data.dataset import Dataset
    from npt_core.tuning.features import DECODE_THREADS, decoded_ahead

    with Dataset.from_archive(path) as dataset:
        target = 64  # the demo backbone's; no picture here is large enough to be shrunk for it

        def ours(with_hash: bool) -> None:
            def look(sample: Any) -> None:
                image = dataset.open_image(sample, target=target)
                if with_hash:
                    picture_hash(image)

            with ThreadPoolExecutor(DECODE_THREADS) as pool:
                for _ in decoded_ahead(pool, dataset.samples, look, window=16 * DECODE_THREADS):
                    pass

        with Peak() as peak:
            ours(True)
        files = [dataset.read(sample) for sample in dataset.samples]

        def pillow() -> None:
            def each(part: Sequence[bytes]) -> None:
                for data in part:
                    Image.open(io.BytesIO(data)).convert("RGB")

            with ThreadPoolExecutor(DECODE_THREADS) as pool:
                list(pool.map(each, (files[start : start + 500] for start in range(0, len(files), 500))))

        ways: dict[str, Callable[[], None]] = {
            "Pillow alone": pillow,
            "audit, decoded": lambda: ours(False),
            "audit, decoded and hashed": lambda: ours(True),
        }
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, run in ways.items():
                began, core = time.perf_counter(), time.process_time()
                run()
                found[way].append((time.perf_counter() - began, time.process_time() - core))
    return {"n": len(files), "found": found, "grown": peak.grown}


def in_a_process(kind: str, path: Path, repeats: int) -> dict[str, Any]:
    """Measure in a process that has done nothing before, so that its memory is its own."""
    argv = [sys.executable, "-m", "benchmarks.ingest", "--child", kind, "--zip", str(path), "--repeats", str(repeats)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def zip_part(folder: Path, n: int, repeats: int) -> list[tuple[str, bool]]:
    path = folder / "pictures.zip"
    write_pictures(path, n)
    print(f"{n:,} JPEGs of {SIDE} by {SIDE} in {CLASSES} classes, {path.stat().st_size / MIB:.0f} MiB\n")
    runs = [in_a_process("index", path, 1) for _ in range(repeats)]
    core = statistics.median(run["n"] / run["core"] for run in runs)
    wall = statistics.median(run["n"] / run["seconds"] for run in runs)
    grown = max(run["grown"] for run in runs)
    print("| indexed, hashed, headers checked | images a second of a core | images a second | MiB grown |")
    print("|---|---|---|---|")
    print(f"| median of {repeats} | {core:,.0f} | {wall:,.0f} | {grown:.0f} |")
    seen = in_a_process("decode", path, repeats)
    rates = {
        way: [statistics.median(seen["n"] / one for one in times) for times in zip(*runs, strict=True)]
        for way, runs in seen["found"].items()
    }
    base = rates["Pillow alone"]
    print("\n| decoded, all pixels | images a second | of Pillow alone | of Pillow alone, a core |")
    print("|---|---|---|---|")
    for way, (seconds, cores) in rates.items():
        print(f"| {way} | {seconds:,.0f} | {seconds / base[0]:.2f} | {cores / base[1]:.2f} |")
    print(f"\nThe audit's decoding and hashing grew by {seen['grown']:.0f} MiB.")
    ratio, grown = rates["audit, decoded"][0] / base[0], max(grown, seen["grown"])
    return [
        (f"indexed at {core:,.0f} images a second of a core, {INDEXED_PER_S:,} wanted", core >= INDEXED_PER_S),
        (f"decoded at {ratio:.2f} of Pillow alone, {DECODED_RATIO} wanted", ratio >= DECODED_RATIO),
        (f"memory grew by {grown:.0f} MiB, under {GROWTH_MIB} wanted", grown < GROWTH_MIB),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["zip", "upload", "both"], default="both")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--bytes", type=int, default=2 * 2**30 - 2**20, help="size of the upload")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made; the disk counts")
    parser.add_argument("--child", choices=["index", "decode"], help=argparse.SUPPRESS)
    parser.add_argument("--zip", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        path = arguments.zip
        print(json.dumps(index(path) if arguments.child == "index" else decode(path, arguments.repeats)))
        return 0
    verdicts: list[tuple[str, bool]] = []
    print(f"{os.cpu_count()} cores, medians of {arguments.repeats}\n")
    with tempfile.TemporaryDirectory(prefix="npt-ingest-", dir=arguments.folder) as where:
        if arguments.part != "upload":
            verdicts += zip_part(Path(where), arguments.images, arguments.repeats)
        if arguments.part != "zip":
            verdicts += upload(Path(where), arguments.bytes, arguments.repeats)
    print()
    for text, good in verdicts:
        print(f"{'PASS' if good else 'FAIL'} {text}")
    return 0 if all(good for _, good in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
