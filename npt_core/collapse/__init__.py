"""Regularisers that shape class geometry, one file each; adding one touches no other file."""

from __future__ import annotations

from npt_core.collapse.base import (
    REGULARIZERS,
    ClassMeans,
    CollapseContext,
    CollapseSetup,
    Regularizer,
    RegularizerConfig,
    RegularizerInfo,
    check_pair,
    register,
)


def get_regularizer(name: str) -> type[Regularizer]:
    """Return the regulariser class called `name`.

    Raises:
        ConfigError: There is none; the message lists those there are.
    """
    return REGULARIZERS.get(name)


def list_regularizers() -> list[RegularizerInfo]:
    """Describe every regulariser, sorted by name."""
    return [RegularizerInfo(cls.name, cls.title, cls.source, cls.Config.json_schema()) for cls in REGULARIZERS]


__all__ = [
    "ClassMeans",
    "CollapseContext",
    "CollapseSetup",
    "Regularizer",
    "RegularizerConfig",
    "RegularizerInfo",
    "check_pair",
    "get_regularizer",
    "list_regularizers",
    "register",
]
