"""Images to features: decoded in a small thread pool, encoded in batches, cached by content, never by seed."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from npt_core.data.images import DECODE_POLICY, decode_image
from npt_core.data.names import shown
from npt_core.errors import Fault, ImageError, OutOfMemoryError
from npt_core.tuning.cache import Array, FeatureCache, MemoryFeatureCache, grouped
from npt_core.tuning.control import Control, GoOn
from npt_core.tuning.folder_cache import FolderFeatureCache
from npt_core.tuning.memory import is_out_of_memory
from npt_core.tuning.views import VIEW_RECIPE, view_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from npt_core.clip.backbone import Backbone
    from npt_core.data.dataset import Dataset, Sample

DECODE_THREADS = 2
DECODED_AT_ONCE = 8
"""Pictures that a thread takes at a time."""

BATCH_CPU = 32
BATCH_ACCELERATOR = 128

CACHE_READ = 2048
"""Images asked for in one call of a cache."""

Onlooker = Callable[["Sample", "Image"], None]
"""Told of each picture that was decoded, from several threads."""

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
    if backbone.resize is not None:
        facts.append(backbone.resize)
    return grouped(backbone.fingerprint, hashlib.sha256(json.dumps(facts).encode()).hexdigest())


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


def _decode(
    backbone: Backbone, dataset: Dataset, sample: Sample, views: Sequence[int], seen: Onlooker | None = None
) -> list[Tensor] | Fault:
    try:
        image = dataset.open_image(sample, target=decode_target(backbone))
        if seen is not None:
            seen(sample, image)
        return [backbone.load_pixels(view_of(image, sample.sha256, view)) for view in views]
    except ImageError as error:
        return error.faults[0] if error.faults else Fault(sample.path, error.message)


def decoded_ahead(
    pool: ThreadPoolExecutor, jobs: Iterable[Any], work: Callable[[Any], Any], window: int
) -> Generator[tuple[Any, Any], None, None]:
    """Yield (job, result) in order while at most `window` jobs are decoded ahead; what is not needed is cancelled.

    Jobs go to the threads a few at a time: to hand over a small picture costs a third of what decoding it does.
    """
    stopped = Event()

    def several(part: Sequence[Any]) -> list[tuple[Any, Exception | None]]:
        done: list[tuple[Any, Exception | None]] = []
        for job in part:
            if stopped.is_set():
                break
            try:
                done.append((work(job), None))
            except Exception as error:  # raised where its job's turn is; nobody gets beyond it
                done.append((None, error))
                break
        return done

    waiting: deque[tuple[list[Any], Future[list[tuple[Any, Exception | None]]]]] = deque()
    upcoming, ahead, size = iter(jobs), 0, max(1, min(DECODED_AT_ONCE, window // 4))
    try:
        while True:
            while part := list(islice(upcoming, min(size, window - ahead))):
                waiting.append((part, pool.submit(several, part)))
                ahead += len(part)
            if not waiting:
                return
            part, future = waiting.popleft()
            for job, (result, error) in zip(part, future.result(), strict=False):
                if error is not None:
                    raise error
                yield job, result
            ahead -= len(part)
    finally:
        stopped.set()
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
    seen: Onlooker | None = None,
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
        seen: Shown each picture that had to be decoded, in the thread that did it.

    Returns:
        The features; unreadable images are left out and listed in `bad`.
    """
    control = control or GoOn()
    report = progress or (lambda encoded, cached: None)
    outputs = (POOLED, TOKENS) if with_tokens else (POOLED,)
    samples = [dataset.samples[index] for index in sample_indices]
    # By content: an image that is there twice is encoded once.
    distinct = {sample.sha256: sample for sample in samples}
    table = _Table(backbone, list(distinct), views, outputs)
    if cache is not None:
        table.read(cache)
    missing = [(sample, need) for sha256, sample in distinct.items() if (need := table.missing(sha256))]
    cached = len(distinct) * views - sum(len(need) for _, need in missing)
    report(0, cached)
    control.check()
    bad: dict[str, Fault] = {}
    batch = BATCH_CPU if backbone.device.type == "cpu" else BATCH_ACCELERATOR
    queue: list[tuple[str, int, Tensor]] = []
    encoded = 0

    def encode(size: int) -> None:
        nonlocal encoded, queue
        part, queue = queue[:size], queue[size:]
        fresh = table.encode(part)
        if cache is not None:
            cache.put_many(fresh)
        encoded += len(part)
        report(len(part), 0)
        control.check()

    def decode(job: tuple[Sample, list[int]]) -> list[Tensor] | Fault:
        return _decode(backbone, dataset, *job, seen)

    with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as pool:
        for (sample, need), pixels in decoded_ahead(pool, missing, decode, window=2 * batch // views + 2):
            control.check()
            if isinstance(pixels, Fault):
                bad[sample.sha256] = pixels
                continue
            queue.extend((sample.sha256, view, one) for view, one in zip(need, pixels, strict=True))
            while len(queue) >= batch:
                encode(batch)
        while queue:
            encode(batch)
    position = {label: number for number, label in enumerate(dataset.labels)}
    kept = [index for index, sample in zip(sample_indices, samples, strict=True) if sample.sha256 not in bad]
    hashes = [dataset.samples[index].sha256 for index in kept]
    return FeatureSet(
        indices=kept,
        features=table.rows(POOLED, hashes),
        tokens=table.rows(TOKENS, hashes) if with_tokens else None,
        labels=torch.tensor([position[dataset.samples[index].label] for index in kept], dtype=torch.int64),
        encoded=encoded,
        cached=cached,
        bad=[Fault(shown(sample.path), bad[sample.sha256].message) for sample in samples if sample.sha256 in bad],
    )


class _Table:
    """Features of distinct images by (image, view), in one block of memory for each output."""

    def __init__(self, backbone: Backbone, hashes: Sequence[str], views: int, outputs: Sequence[str]) -> None:
        self.backbone, self.views, self.outputs = backbone, views, outputs
        self.row = {sha256: number for number, sha256 in enumerate(hashes)}
        self.blocks: dict[str, Tensor] = {}
        self.known = {output: np.zeros((len(hashes), views), dtype=bool) for output in outputs}

    def _put(self, output: str, sha256: str, view: int, value: Tensor) -> None:
        if output not in self.blocks:  # its shape is known from the first value
            self.blocks[output] = torch.zeros(len(self.row), self.views, *value.shape)
        self.blocks[output][self.row[sha256], view] = value
        self.known[output][self.row[sha256], view] = True

    def read(self, cache: FeatureCache) -> None:
        """Take what the cache has, some thousand keys at a time."""
        hashes = list(self.row)
        for start in range(0, len(hashes), CACHE_READ):
            keys = {
                feature_key(self.backbone, sha256, view, output): (output, sha256, view)
                for sha256 in hashes[start : start + CACHE_READ]
                for view in range(self.views)
                for output in self.outputs
            }
            for key, value in cache.get_many(list(keys)).items():
                self._put(*keys[key], torch.from_numpy(np.array(value, dtype=np.float32)))

    def missing(self, sha256: str) -> list[int]:
        """Return the views of an image that must be encoded."""
        row = self.row[sha256]
        return [view for view in range(self.views) if not all(self.known[o][row, view] for o in self.outputs)]

    def encode(self, part: Sequence[tuple[str, int, Tensor]]) -> dict[str, Array]:
        """Encode (image, view, pixels), keep the features and return them by cache key."""
        pixels = torch.stack([one for _, _, one in part]).to(self.backbone.device)
        fresh: dict[str, Array] = {}
        for output in self.outputs:
            for (sha256, view, _), value in zip(part, encode_pixels(self.backbone, pixels, output), strict=True):
                self._put(output, sha256, view, value)
                fresh[feature_key(self.backbone, sha256, view, output)] = value.numpy().copy()
        return fresh

    def rows(self, output: str, hashes: Sequence[str]) -> Tensor:
        """Return (n, V, ...) features of images in the given order."""
        block = self.blocks.get(output)
        if block is None or not hashes:
            return torch.zeros(len(hashes), self.views, 0)
        order = [self.row[sha256] for sha256 in hashes]
        return block if order == list(range(len(block))) else block[order]


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
    "decoded_ahead",
    "encode_dataset",
    "encode_pixels",
    "feature_key",
    "load_picture",
]
