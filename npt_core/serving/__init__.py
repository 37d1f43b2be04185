"""Micro-batching for whoever serves predictions: the HTTP service and batch jobs alike."""

from __future__ import annotations

from npt_core.serving.batcher import MicroBatcher

__all__ = ["MicroBatcher"]
