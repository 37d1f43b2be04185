"""Classify pictures that come one after the other, however many there are, in memory that does not grow with them.

    pictures = [(path.name, path.read_bytes) for path in folder.iterdir()]
    for part in classify_stream(pictures, [Ask(classifier)]):
        for name, scores in zip(part.readable, part.scores[0].probabilities):
            ...

Pictures are decoded ahead in a few threads and go through the image tower in batches, in a thread of its own, while
the answers to the batch before are used. A batch is a fixed run of the pictures, those that cannot be read included, so
that who begins again at the start of a batch gets the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from npt_core.classifier import Classifier, Scores
from npt_core.clip.backbone import Backbone
from npt_core.errors import ConfigError, DataError, NPTError, OutOfMemoryError
from npt_core.tuning.control import Control, GoOn
from npt_core.tuning.features import BATCH_ACCELERATOR, BATCH_CPU, decoded_ahead, load_picture
from npt_core.tuning.memory import is_out_of_memory, release_cached_memory

MAX_DECODE_THREADS = 8

Picture = tuple[str, Callable[[], bytes]]
"""A name, and what gives the bytes of the file; that is called in another thread, when its turn comes."""


@dataclass(frozen=True)
class Ask:
    """One classifier, the names it shall choose from (None: its own), and how often each occurs, see `predict`."""

    classifier: Classifier
    labels: tuple[str, ...] | None = None
    priors: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Part:
    """The answers to a run of pictures.

    Attributes:
        names: The B names, as they came.
        errors: Position in `names` -> why that picture has no answer.
        scores: For each `Ask`, the answers to the pictures that could be read, in order; empty where none could.
    """

    names: tuple[str, ...]
    errors: dict[int, NPTError]
    scores: tuple[Scores, ...]

    @property
    def readable(self) -> tuple[str, ...]:
        """The names of the pictures that have answers."""
        return tuple(name for position, name in enumerate(self.names) if position not in self.errors)


def default_batch(asks: Sequence[Ask]) -> int:
    """Return how many pictures go through a tower at once where nobody says."""
    on_cpu = all(ask.classifier.backbone.device.type == "cpu" for ask in asks)
    return BATCH_CPU if on_cpu else BATCH_ACCELERATOR


def classify_stream(
    pictures: Iterable[Picture],
    asks: Sequence[Ask],
    *,
    batch: int | None = None,
    decode_threads: int | None = None,
    control: Control | None = None,
) -> Iterator[Part]:
    """Classify pictures with one or several classifiers; those on one backbone share the encoding.

    At most four batches of decoded pictures are held, and one file a thread.

    Args:
        pictures: Read forward, a little ahead of the answers.
        asks: At least one.
        batch: Pictures in a part, and at once in a tower; where memory runs out, fewer go through the tower.
        decode_threads: Default: one a core, up to 8.
        control: Checked for every picture and every batch.

    Yields:
        A part for each run of `batch` pictures, in order.

    Raises:
        ConfigError: Nobody is asked, or a size that cannot work.
        OutOfMemoryError: One picture alone does not fit.
        StopTuning: The control asked to stop.
    """
    if not asks:
        raise ConfigError("Nobody is asked about the pictures; give at least one classifier.")
    batch = default_batch(asks) if batch is None else batch
    threads = min(MAX_DECODE_THREADS, os.cpu_count() or 1) if decode_threads is None else decode_threads
    if batch < 1 or threads < 1:
        raise ConfigError(f"batch is {batch} and decode_threads {threads}; both must be at least 1.")
    control = control or GoOn()
    eyes = _eyes(asks)
    under_way: Future[Part] | None = None
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="tower") as tower,
    ):
        ahead = decoded_ahead(pool, pictures, lambda picture: _decode(picture, eyes), window=batch)
        try:
            while waiting := _next_batch(ahead, batch, control):
                following = tower.submit(_part, waiting, eyes, len(asks))
                if under_way is not None:
                    yield under_way.result()
                under_way = following
            if under_way is not None:
                yield under_way.result()
        finally:
            ahead.close()  # cancels what is decoded ahead, so that the pool ends at once


_Decoded = tuple[str, list[Tensor] | NPTError]


def _next_batch(
    ahead: Iterator[tuple[Picture, list[Tensor] | NPTError]], size: int, control: Control
) -> list[_Decoded]:
    waiting: list[_Decoded] = []
    for (name, _), decoded in islice(ahead, size):
        control.check()
        waiting.append((name, decoded))
    return waiting


class _Eye:
    """One backbone with one way of fitting pictures into the square, and who looks through it."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.asks: list[tuple[int, Ask]] = []
        self.at_once: int | None = None  # fewer than a batch once memory ran out

    def scores(self, pixels: Tensor) -> list[Scores]:
        """Answer for (B, 3, H, W) pixels, in as many pieces as memory asks for."""
        found: list[list[Scores]] = []
        for piece in torch.split(pixels, self.at_once or len(pixels)):
            scores = self._try(piece)
            if scores is None:
                break
            found.append(scores)
        else:
            return [_joined(column) for column in zip(*found, strict=True)]
        release_cached_memory()
        size = min(len(pixels), self.at_once or len(pixels))
        if size == 1:
            raise OutOfMemoryError(
                f"Backbone {self.backbone.name!r} does not fit: a single image ran out of memory on "
                f"{self.backbone.device}; use a smaller backbone, a lower precision, or another device."
            )
        self.at_once = size // 2
        return self.scores(pixels)

    def _try(self, pixels: Tensor) -> list[Scores] | None:
        """None where memory ran out; the caller goes on without the traceback that holds what was computed."""
        try:
            return self._look(pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _look(self, pixels: Tensor) -> list[Scores]:
        classifiers = [ask.classifier for _, ask in self.asks]
        features = tokens = None
        if any(one.needs_tokens for one in classifiers):
            with torch.no_grad():
                encoded = self.backbone.image.encode_tokens(pixels.to(self.backbone.device))
            features, tokens = encoded.pooled, encoded.tokens
        elif not all(one.needs_pixels for one in classifiers):
            features = self.backbone.encode_images(pixels)
        found = []
        for _, ask in self.asks:
            one = ask.classifier
            seen = pixels if one.needs_pixels or features is None else features
            wanted = tokens if one.needs_tokens else None
            found.append(one.predict(seen, labels=ask.labels, tokens=wanted, priors=ask.priors))
        return found


def _eyes(asks: Sequence[Ask]) -> list[_Eye]:
    eyes: dict[tuple[str, str, str | None], _Eye] = {}
    for place, ask in enumerate(asks):
        backbone = ask.classifier.backbone
        key = (backbone.fingerprint, backbone.precision, backbone.resize)
        eyes.setdefault(key, _Eye(backbone)).asks.append((place, ask))
    return list(eyes.values())


def _decode(picture: Picture, eyes: Sequence[_Eye]) -> list[Tensor] | NPTError:
    """(3, H, W) pixels for each eye, or why there are none."""
    try:
        data = picture[1]()
        return [load_picture(eye.backbone, data) for eye in eyes]
    except DataError as error:
        return error
    except MemoryError:
        return OutOfMemoryError("There was not enough memory to decode this image; send a smaller one.")


def _part(waiting: Sequence[_Decoded], eyes: Sequence[_Eye], asked: int) -> Part:
    errors = {place: one for place, (_, one) in enumerate(waiting) if isinstance(one, NPTError)}
    good = [one for _, one in waiting if not isinstance(one, NPTError)]
    scores: dict[int, Scores] = {}
    for number, eye in enumerate(eyes if good else ()):
        found = eye.scores(torch.stack([pixels[number] for pixels in good]))
        scores |= {place: one for (place, _), one in zip(eye.asks, found, strict=True)}
    names = tuple(name for name, _ in waiting)
    return Part(names, errors, tuple(scores[place] for place in range(asked)) if good else ())


def _joined(pieces: Sequence[Scores]) -> Scores:
    if len(pieces) == 1:
        return pieces[0]
    return replace(
        pieces[0],
        probabilities=torch.cat([one.probabilities for one in pieces]),
        similarities=torch.cat([one.similarities for one in pieces]),
    )
