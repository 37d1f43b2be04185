"""Serving predictions: micro-batches for single requests, ranked answers; many in a row: `npt_core.serving.stream`."""

from __future__ import annotations

from npt_core.serving.batcher import MicroBatcher
from npt_core.serving.ranking import Candidate, Ranking, rank

__all__ = ["Candidate", "MicroBatcher", "Ranking", "rank"]
