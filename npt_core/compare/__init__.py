"""Several classifiers, and no tuning at all, judged on the same labelled images."""

from npt_core.compare.contestants import Contestant, compare
from npt_core.compare.verdict import Comparison

__all__ = ["Comparison", "Contestant", "compare"]
