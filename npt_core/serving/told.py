"""What those who ask are told beside the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone


def unseen_warnings(backbone: Backbone, labels: Sequence[str]) -> tuple[str, ...]:
    """Return what to tell who uses words that the backbone never saw; nothing where that is not known."""
    strange = sorted({word for label in labels for word in backbone.unseen_words(label)})
    if not strange:
        return ()
    words = ", ".join(repr(word) for word in strange[:20])
    return (f"Backbone {backbone.name!r} never saw these words in training: {words}. Expect little of them.",)
