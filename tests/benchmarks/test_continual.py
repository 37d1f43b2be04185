"""The table of benchmarks/continual.py."""

from __future__ import annotations

from typing import Any

from benchmarks.continual import ARMS, WITHOUT_IMAGES, table
from npt_core import TuneConfig


def line(arm: str, seed: int, old: float) -> dict[str, Any]:
    return {
        "dataset": "digits",
        "method": "coop",
        "arm": arm,
        "seed": seed,
        "before": 0.9,
        "old": old,
        "new": 0.5,
        "all": 0.6,
    }


def test_rows_are_means_over_seeds_and_the_last_ones_over_everything() -> None:
    found = list(table([line("none", 0, 0.4), line("replay", 0, 0.8), line("none", 1, 0.6)]))
    assert found[2] == "| digits | coop | none | 0.900 ± 0.000 | 0.500 ± 0.141 | 0.500 ± 0.000 | 0.600 ± 0.000 |"
    assert found[-1] == "| **mean** | | replay | 0.900 | 0.800 | 0.500 | 0.600 |"


def test_every_arm_is_a_config() -> None:
    for name, settings in ARMS.items():
        assert TuneConfig.from_dict({"parent": "p", **settings}).keep_old == settings["keep_old"]
        assert name not in WITHOUT_IMAGES or settings["keep_old"] == "null-space"
