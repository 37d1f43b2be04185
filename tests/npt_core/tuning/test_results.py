"""What a tuning came to, in words."""

from __future__ import annotations

from npt_core.tuning.results import worse_than_zero_shot


def test_a_result_below_zero_shot_is_warned_about() -> None:
    warning = worse_than_zero_shot({"accuracy": 0.8}, {"accuracy": 0.5, "count": 6}, {"p_value": 0.3})
    assert warning is not None
    assert "0.500 is below zero-shot 0.800 on the same 6 images" in warning
    assert worse_than_zero_shot({"accuracy": 0.5}, {"accuracy": 0.5, "count": 6}, {"p_value": 1}) is None
