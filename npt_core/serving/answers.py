"""Image files to answers in one call: what `Classifier.classify` does. For thousands of images see `serving.stream`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from npt_core.errors import ConfigError, ImageError, NPTError
from npt_core.serving.ranking import Candidate, rank
from npt_core.serving.stream import Ask, Picture, classify_stream

if TYPE_CHECKING:
    from npt_core.classifier import Classifier

Given = str | Path | bytes | Image.Image
"""An image file, its bytes, or a picture that is decoded already."""

PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one image.

    Attributes:
        name: The path as it was given; of bytes and pictures, `image-1` and so on by place.
        top: The best classes, best first; empty where the image cannot be read.
        rejected: The best probability is below `reject_below`.
        error: Why there is no answer.
    """

    name: str
    top: tuple[Candidate, ...]
    rejected: bool = False
    error: NPTError | None = None

    @property
    def best(self) -> Candidate:
        """The most probable class.

        Raises:
            ImageError: The image could not be read.
        """
        if not self.top:
            raise self.error or ImageError(f"{self.name} has no answer.")
        return self.top[0]

    @property
    def label(self) -> str:
        """The label of the most probable class; raises as `best`."""
        return self.best.label

    @property
    def probability(self) -> float:
        """The probability of the most probable class; raises as `best`."""
        return self.best.probability


def classify(
    classifier: Classifier,
    images: Given | Sequence[Given],
    *,
    labels: Sequence[str] | None = None,
    top_k: int = 5,
    reject_below: float | None = None,
    priors: Mapping[str, float] | None = None,
) -> list[Answer]:
    """Answer for image files; see `Classifier.classify`."""
    if top_k < 1:
        raise ConfigError(f"top_k is {top_k}; it must be at least 1.")
    given = [images] if isinstance(images, Given) else list(images)
    pictures = [_picture(number, one) for number, one in enumerate(given, 1)]
    threshold = classifier.calibration.reject_below or 0.0 if reject_below is None else reject_below
    ask = Ask(classifier, None if labels is None else tuple(labels), priors)
    answers: list[Answer] = []
    for part in classify_stream(pictures, [ask]):
        rankings = iter(rank(part.scores[0], top_k, threshold) if part.scores else ())
        for position, name in enumerate(part.names):
            error = part.errors.get(position)
            if error is not None:
                answers.append(Answer(name, (), error=error))
            else:
                ranking = next(rankings)
                answers.append(Answer(name, ranking.top, ranking.rejected))
    return answers


def _picture(number: int, one: Given) -> Picture:
    if isinstance(one, bytes):
        return f"image-{number}", lambda: one
    if isinstance(one, Image.Image):
        return f"image-{number}", lambda: _as_file(one)
    return str(one), _reader(Path(one).expanduser())


def _reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            what = "is a folder" if path.is_dir() else f"cannot be read: {error.strerror or error}"
            raise ImageError(f"{path} {what}; give image files.") from error

    return read


def _as_file(image: Image.Image) -> bytes:
    """A decoded picture on the way that every file takes: upright, and without loss."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in PNG_MODES:
        upright = upright.convert("RGB")
    out = io.BytesIO()
    upright.save(out, "PNG", compress_level=1)
    return out.getvalue()
