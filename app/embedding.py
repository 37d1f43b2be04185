"""Features of pictures and texts, as the frozen towers see them; through the batcher that predictions go through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from anyio import to_thread

from app.backbones import Backbones
from app.encoding import Loaded, Seen
from app.inference import Picture
from npt_core.errors import NPTError
from npt_core.serving.told import unseen_warnings

if TYPE_CHECKING:
    from torch import Tensor

Vector = list[float]


@dataclass(frozen=True)
class Embedded:
    """Unit-norm features, (d) each.

    Attributes:
        backbone: Whose.
        fingerprint: Of its weights and preprocessing: features of another fingerprint cannot be compared with these.
        d: Numbers in each.
        pictures: Of each picture, or why there are none.
        texts: Of each text.
        warnings: Words that the backbone never saw.
    """

    backbone: str
    fingerprint: str
    d: int
    pictures: tuple[Vector | NPTError, ...]
    texts: tuple[Vector, ...]
    warnings: tuple[str, ...]


async def embed(
    backbones: Backbones, pictures: Sequence[Picture], texts: Sequence[str], backbone: str | None = None
) -> Embedded:
    """Encode pictures and texts.

    Raises:
        UnknownBackboneError, BackboneError: The backbone is not here, or cannot be loaded.
        PromptError: A text that the text tower cannot take.
        OverloadedError: Too much is waiting already.
    """
    async with backbones.use(backbone) as loaded:
        vectors = await _texts(loaded, texts) if texts else []  # first: they are refused before any picture is decoded
        seen = await loaded.look([picture.data for picture in pictures], features=True) if pictures else []
    return Embedded(
        backbone=loaded.backbone.name,
        fingerprint=loaded.backbone.fingerprint,
        d=loaded.backbone.d,
        pictures=tuple(_vector(one) for one in seen),
        texts=tuple(vectors),
        warnings=await to_thread.run_sync(unseen_warnings, loaded.backbone, texts),
    )


async def _texts(loaded: Loaded, texts: Sequence[str]) -> list[Vector]:
    def encode() -> list[Vector]:
        found: list[Vector] = loaded.backbone.encode_texts(texts).cpu().tolist()
        return found

    return await asyncio.wrap_future(loaded.batcher.call(encode))


def _vector(one: Seen | NPTError) -> Vector | NPTError:
    if isinstance(one, NPTError):
        return one
    found: Vector = cast("Tensor", one.features).tolist()  # they were asked for
    return found
