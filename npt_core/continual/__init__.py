"""Going on from a model: its settings, its old images, what keeps its classes, and how well they were kept."""

from __future__ import annotations
