"""How a parent's classes are kept: what was asked for, and what is possible."""

from __future__ import annotations

from typing import Literal

from npt_core.errors import IncompatibleError
from npt_core.methods import ImageInput, Method

Keeping = Literal["none", "replay", "null-space", "both"]


def how_to_keep(asked: str, method: type[Method], images: bool, memory: bool) -> Keeping:
    """Return how old classes are kept.

    Args:
        asked: `keep_old` of the config.
        method: What is tuned.
        images: Old images are at hand.
        memory: The parent remembers the features of its images.

    Raises:
        IncompatibleError: What was asked for is not possible; the message says why.
    """
    replay = images and not method.replays_by_itself
    null_space = takes_guard(method) and (images or (memory and reads_memory(method)))
    if asked == "auto":
        return "replay" if replay else "null-space" if null_space else "none"
    if asked in ("replay", "both") and not replay:
        why = "its model holds its images already" if method.replays_by_itself else "none of its images are at hand"
        raise IncompatibleError(
            f"keep_old is {asked!r}, and the parent's images cannot be tuned on again: {why}. Use 'auto', or send the "
            "old images along."
        )
    if asked in ("null-space", "both") and not null_space:
        why = (
            f"method {method.name!r} does not move features"
            if not takes_guard(method)
            else ("none of its images are at hand, and the parent remembers no features that this method could go by")
        )
        raise IncompatibleError(f"keep_old is {asked!r}, and there is no null space to keep to: {why}. Use 'auto'.")
    found: Keeping = asked  # type: ignore[assignment]
    return found


def takes_guard(method: type[Method]) -> bool:
    """Whether steps can be kept to a null space: only where tuning moves features."""
    return method.moves_features


def reads_memory(method: type[Method]) -> bool:
    """Whether remembered directions can stand for images: learned logits must be linear in frozen image features."""
    linear = method.has_text_features and not method.text_depends_on_image
    return method.moves_features and linear and method.image_input is ImageInput.POOLED
