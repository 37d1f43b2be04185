"""Images to features: decoded in a small thread pool, encoded in batches, cached by content, never by seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from npt_core.data.images import DECODE_POLICY, decode_image
from npt_core.data.names import shown
from npt_core.errors import Fault, ImageError, OutOfMemoryError
from npt_core.tuning.cache import Array, FeatureCache, FolderFeatureCache, MemoryFeatureCache
from npt_core.tuning.control import Control, GoOn
from npt_core.tuning.memory import is_out_of_memory
from npt_core.tuning.views import VIEW_RECIPE, view_of

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.data.dataset import Dataset, Sample

DECODE_THREADS = 2
BATCH_CPU = 32
BATCH_ACCELERATOR = 128

POOLED = "pooled"
TOKENS = "tokens"


def decode_target(backbone: Backbone) -> int:
    """Return the side that decoders may shrink to; the same in tuning and in prediction."""
    return max(backbone.image_size)


def load_picture(backbone: Backbone, data: bytes) -> Tensor:
    """Decode and prepare one image file exactly as tuning does.

    Returns:
        (3, H, W) float32 on the CPU, for `Backbone.encode_images`.

    Raises:
        ImageError: The file is no image that can be read.
    """
    return backbone.load_pixels(decode_image(data, target=decode_target(backbone)))


def feature_key(backbone: Backbone, sha256: str, view: int, output: str = POOLED) -> str:
    """Return the cache key of one view of one image: equal exactly where the feature is the same by construction."""
    facts = [sha256, view, VIEW_RECIPE if view else 0, backbone.fingerprint, backbone.precision, DECODE_POLICY, output]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass
class FeatureSet:
    """Features of n images.

    Attributes:
        indices: The n positions in the data set's samples, unreadable images left out.
        features: (n, V, d) float32 unit-norm; view 0 is the plain image.
        tokens: (n, V, T, d) float32 unit-norm where they were asked for.
        labels: (n,) class names' positions in the data set's labels.
        encoded: Views that went through the image tower.
        cached: Views that came from the cache.
        bad: One fault for each unreadable image.
    """

    indices: list[int]
    features: Tensor
    labels: Tensor
    tokens: Tensor | None = None
    encoded: int = 0
    cached: int = 0
    bad: list[Fault] = field(default_factory=list)


def _decode(backbone: Backbone, dataset: Dataset, sample: Sample, views: Sequence[int]) -> list[Tensor] | Fault:
    try:
        image = dataset.open_image(sample, target=decode_target(backbone))
        return [backbone.load_pixels(view_of(image, sample.sha256, view)) for view in views]
    except ImageError as error:
        return error.faults[0] if error.faults else Fault(sample.path, error.message)


def _ahead(
    pool: ThreadPoolExecutor, jobs: Sequence[Any], work: Callable[[Any], Any], window: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (job, result) in order while at most `window` jobs are decoded ahead; what is not needed is cancelled."""
    waiting: list[tuple[Any, Future[Any]]] = []
    upcoming = iter(jobs)
    try:
        while True:
            while len(waiting) < window and (job := next(upcoming, None)) is not None:
                waiting.append((job, pool.submit(work, job)))
            if not waiting:
                return
            job, future = waiting.pop(0)
            yield job, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def encode_pixels(backbone: Backbone, pixels: Tensor, output: str = POOLED) -> Tensor:
    """Encode (B, 3, H, W) pixels, in halves as often as memory asks for it.

    Returns:
        (B, d) or, for tokens, (B, T, d); float32 on the CPU.

    Raises:
        OutOfMemoryError: One image alone does not fit.
    """
    try:
        if output == POOLED:
            return backbone.encode_images(pixels).float().cpu()
        with torch.no_grad():
            return backbone.image.encode_tokens(pixels).tokens.float().cpu()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(pixels) == 1:
            raise OutOfMemoryError(
                f"Backbone {backbone.name!r} does not fit: encoding a single image ran out of memory on "
                f"{backbone.device}; use a smaller backbone, a lower precision, or another device."
            ) from error
    half = len(pixels) // 2
    return torch.cat([encode_pixels(backbone, part, output) for part in (pixels[:half], pixels[half:])])


def encode_dataset(
    backbone: Backbone,
    dataset: Dataset,
    sample_indices: Sequence[int],
    *,
    views: int = 1,
    cache: FeatureCache | None = None,
    control: Control | None = None,
    progress: Callable[[int, int], None] | None = None,
    with_tokens: bool = False,
) -> FeatureSet:
    """Encode images with the frozen tower, each view once in the life of the cache.

    Args:
        backbone: The frozen towers.
        dataset: Where the samples are.
        sample_indices: Which samples, by position.
        views: V; view 0 is the plain image, the others are crops drawn from the image's own hash.
        cache: Asked first, told afterwards.
        control: Checked for every image and every batch.
        progress: Called with (views encoded, views found in the cache) since the last call.
        with_tokens: Also return the token features.

    Returns:
        The features; unreadable images are left out and listed in `bad`.
    """
    control = control or GoOn()
    report = progress or (lambda encoded, cached: None)
    outputs = (POOLED, TOKENS) if with_tokens else (POOLED,)
    samples = [dataset.samples[index] for index in sample_indices]
    found: dict[str, Array] = {}
    keys = {
        (sample.sha256, view, output): feature_key(backbone, sample.sha256, view, output)
        for sample in samples
        for view in range(views)
        for output in outputs
    }
    if cache is not None:
        found.update(cache.get_many(list(keys.values())))
    missing: dict[str, tuple[Sample, list[int]]] = {}  # by content: an image that is there twice is encoded once
    for sample in samples:
        need = [v for v in range(views) if any(keys[sample.sha256, v, output] not in found for output in outputs)]
        if need:
            missing.setdefault(sample.sha256, (sample, need))
    cached = len({(sample.sha256, v) for sample in samples for v in range(views)}) - sum(
        len(need) for _, need in missing.values()
    )
    report(0, cached)
    control.check()
    worker = _Encoder(backbone, outputs, keys, found, cache, report)
    bad: dict[str, Fault] = {}
    batch = BATCH_CPU if backbone.device.type == "cpu" else BATCH_ACCELERATOR
    with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as pool:

        def decode(job: tuple[Sample, list[int]]) -> list[Tensor] | Fault:
            return _decode(backbone, dataset, *job)

        for (sample, need), pixels in _ahead(pool, list(missing.values()), decode, window=2 * batch // views + 2):
            control.check()
            if isinstance(pixels, Fault):
                bad[sample.sha256] = pixels
                continue
            for view, one in zip(need, pixels, strict=True):
                worker.add((sample.sha256, view), one)
            while worker.waiting >= batch:
                worker.run(batch)
                control.check()
        while worker.waiting:
            worker.run(batch)
            control.check()
    return _gather(dataset, sample_indices, views, outputs, keys, found, bad, worker.encoded, cached)


@dataclass
class _Encoder:
    """Collects pixels, encodes them in batches, tells the cache."""

    backbone: Backbone
    outputs: Sequence[str]
    keys: dict[tuple[str, int, str], str]
    found: dict[str, Array]
    cache: FeatureCache | None
    report: Callable[[int, int], None]
    encoded: int = 0
    queue: list[tuple[tuple[str, int], Tensor]] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def add(self, which: tuple[str, int], pixels: Tensor) -> None:
        self.queue.append((which, pixels))

    def run(self, batch: int) -> None:
        part, self.queue = self.queue[:batch], self.queue[batch:]
        pixels = torch.stack([one for _, one in part]).to(self.backbone.device)
        fresh: dict[str, Array] = {}
        for output in self.outputs:
            values = encode_pixels(self.backbone, pixels, output).numpy()
            for ((sha256, view), _), value in zip(part, values, strict=True):
                fresh[self.keys[sha256, view, output]] = value.copy()
        self.found.update(fresh)
        if self.cache is not None:
            self.cache.put_many(fresh)
        self.encoded += len(part)
        self.report(len(part), 0)


def _gather(
    dataset: Dataset,
    sample_indices: Sequence[int],
    views: int,
    outputs: Sequence[str],
    keys: dict[tuple[str, int, str], str],
    found: dict[str, Array],
    bad: dict[str, Fault],
    encoded: int,
    cached: int,
) -> FeatureSet:
    position = {label: number for number, label in enumerate(dataset.labels)}
    kept = [index for index in sample_indices if dataset.samples[index].sha256 not in bad]
    faults = [
        Fault(shown(dataset.samples[index].path), bad[dataset.samples[index].sha256].message)
        for index in sample_indices
        if dataset.samples[index].sha256 in bad
    ]

    def stack(output: str) -> Tensor:
        rows = [
            np.stack([found[keys[dataset.samples[index].sha256, view, output]] for view in range(views)])
            for index in kept
        ]
        return torch.from_numpy(np.stack(rows)).float() if rows else torch.zeros(0, views, 0)

    return FeatureSet(
        indices=kept,
        features=stack(POOLED),
        tokens=stack(TOKENS) if TOKENS in outputs else None,
        labels=torch.tensor([position[dataset.samples[index].label] for index in kept], dtype=torch.int64),
        encoded=encoded,
        cached=cached,
        bad=faults,
    )


class PixelSource:
    """Pixels of (image, view) pairs for methods whose image path is learned; decoded once while they fit in memory.

    Args:
        backbone: Its preprocessing is used.
        dataset: Where the samples are.
        indices: Positions of the n samples; rows below are positions in this list.
        max_bytes: Room for decoded pixels; beyond it images are decoded again at every use.
    """

    def __init__(
        self, backbone: Backbone, dataset: Dataset, indices: Sequence[int], *, max_bytes: int = 1 << 30
    ) -> None:
        self.backbone, self.dataset, self.indices, self.max_bytes = backbone, dataset, list(indices), max_bytes
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._nbytes = 0
        self._pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")

    def _one(self, which: tuple[int, int]) -> Tensor:
        if which in self._kept:
            return self._kept[which]
        row, view = which
        sample = self.dataset.samples[self.indices[row]]
        decoded = _decode(self.backbone, self.dataset, sample, [view])
        if isinstance(decoded, Fault):
            raise ImageError(f"{decoded.path} could be read before and cannot be read now: {decoded.message}")
        return decoded[0]

    def batch(self, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """Return (B, 3, H, W) float32 pixels on the backbone's device."""
        which = list(zip(rows, views, strict=True))
        pixels = list(self._pool.map(self._one, which))
        for key, one in zip(which, pixels, strict=True):
            if key not in self._kept and self._nbytes + one.nbytes <= self.max_bytes:
                self._kept[key] = one
                self._nbytes += one.nbytes
        return torch.stack(pixels).to(self.backbone.device)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)


__all__ = [
    "Array",
    "FeatureCache",
    "FeatureSet",
    "FolderFeatureCache",
    "MemoryFeatureCache",
    "PixelSource",
    "encode_dataset",
    "encode_pixels",
    "feature_key",
    "load_picture",
]
