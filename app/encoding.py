"""One backbone in memory: pictures are decoded in a thread pool and encoded in micro-batches on the one thread that
owns the towers.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from app.settings import AppSettings
from npt_core.errors import BackboneError, DataError, NPTError, OutOfMemoryError, OverloadedError
from npt_core.serving.batcher import MicroBatcher

if TYPE_CHECKING:
    from torch import Tensor

    from npt_core.clip.backbone import Backbone

MAX_PREPARE_THREADS = 8


@dataclass(frozen=True)
class Wish:
    """One picture, and what of it is needed."""

    data: bytes
    features: bool
    tokens: bool
    pixels: bool
    resize: str | None = None
    """How it is fitted into the square, where the models want it in another way than the backbone's own."""


@dataclass(frozen=True)
class Seen:
    """A picture as the classifiers take it; (d), (T, d_vision), (3, H, W)."""

    features: Tensor | None
    tokens: Tensor | None
    pixels: Tensor | None


Batcher = MicroBatcher[Wish, tuple[Wish, Any], Seen]


class Loaded:
    """A backbone in memory and the thread that owns it."""

    def __init__(self, backbone: Backbone, settings: AppSettings, on_batch: Callable[[int, float], None]) -> None:
        self.backbone = backbone
        threads = settings.decode_threads or min(MAX_PREPARE_THREADS, os.cpu_count() or 1)
        self.batcher: Batcher = MicroBatcher(
            self._prepare,
            self._run,
            max_batch=settings.max_batch,
            max_pending=max(settings.max_pending, settings.max_images),
            prepare_threads=threads,
            name=backbone.name,
            on_batch=on_batch,
        )

    async def look(
        self,
        pictures: Sequence[bytes],
        *,
        features: bool,
        tokens: bool = False,
        pixels: bool = False,
        resize: str | None = None,
    ) -> list[Seen | NPTError]:
        """Decode and encode pictures; what cannot be read has its error in its place.

        The same bytes twice are looked at once, so that they get the same answer.

        Raises:
            OverloadedError: Too much is waiting already.
        """
        keys = await _keys(pictures)
        wishes = {key: Wish(data, features, tokens, pixels, resize) for key, data in zip(keys, pictures, strict=True)}
        futures = self.batcher.submit_many(list(wishes.values()))
        results = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        found = dict(zip(wishes, results, strict=True))
        return [_seen_or_error(found[key]) for key in keys]

    def _prepare(self, wish: Wish) -> tuple[Wish, Tensor]:
        from npt_core.tuning.features import load_picture

        return wish, load_picture(self.backbone.with_resize(wish.resize), wish.data)

    def _run(self, items: Sequence[tuple[Wish, Tensor]]) -> list[Seen]:
        import torch

        pixels = torch.stack([tensor for _, tensor in items])
        features = tokens = None
        if any(wish.tokens for wish, _ in items):
            with torch.no_grad():
                encoded = self.backbone.image.encode_tokens(pixels.to(self.backbone.device))
            features, tokens = encoded.pooled.cpu(), encoded.tokens.cpu()
        elif any(wish.features for wish, _ in items):
            features = self.backbone.encode_images(pixels).cpu()
        return [
            Seen(
                features[n] if features is not None else None,
                tokens[n] if tokens is not None and wish.tokens else None,
                tensor if wish.pixels else None,
            )
            for n, (wish, tensor) in enumerate(items)
        ]


async def _keys(pictures: Sequence[bytes]) -> list[bytes]:
    """What tells pictures apart; one alone needs no hash, and no thread to make it in."""
    if len(pictures) == 1:
        return [b""]
    return await to_thread.run_sync(lambda: [hashlib.sha256(data).digest() for data in pictures])


def _seen_or_error(result: Seen | BaseException) -> Seen | NPTError:
    if isinstance(result, Seen | DataError):
        return result
    if isinstance(result, MemoryError):
        return OutOfMemoryError("There was not enough memory to decode this image; send a smaller one.")
    if isinstance(result, NPTError) and not isinstance(result, OverloadedError | BackboneError):
        return result
    raise result
