"""Methods, one file each; adding one touches no other file."""

from __future__ import annotations

from npt_core.methods.base import (
    METHODS,
    ImageBatch,
    ImageInput,
    Method,
    MethodConfig,
    MethodInfo,
    MethodOutput,
    Recipe,
    describe,
    register,
)


def get_method(name: str) -> type[Method]:
    """Return the method class called `name`.

    Raises:
        ConfigError: There is none; the message lists those there are.
    """
    return METHODS.get(name)


def list_methods() -> list[MethodInfo]:
    """Describe every method, sorted by name."""
    return [describe(cls) for cls in METHODS]


__all__ = [
    "ImageBatch",
    "ImageInput",
    "Method",
    "MethodConfig",
    "MethodInfo",
    "MethodOutput",
    "Recipe",
    "get_method",
    "list_methods",
    "register",
]
