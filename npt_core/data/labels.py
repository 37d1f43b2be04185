"""The words a class is called by."""

from __future__ import annotations

from dataclasses import dataclass


def prompt_name(label: str) -> str:
    """The label as words: `_` reads as a space, nothing else changes (`t-shirt` and `737-800` stay)."""
    return label.replace("_", " ")


@dataclass(frozen=True)
class ClassInfo:
    """One class: what it is in the data set, and what it is called in a prompt.

    Args:
        label: Identity, exactly as in the data set.
        name: Words used in the prompt.
        phrasings: One or more ways to say it; `(name,)` where the data set gives none.
    """

    label: str
    name: str
    phrasings: tuple[str, ...]

    @classmethod
    def from_label(cls, label: str) -> ClassInfo:
        """The class of a data set that says no more than the label."""
        name = prompt_name(label)
        return cls(label, name, (name,))
