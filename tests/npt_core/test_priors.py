"""Class frequencies: what can be stated, and what becomes of probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from npt_core.errors import ConfigError
from npt_core.priors import assumed, check_frequencies, log_ratio

LABELS = ("cat", "dog", "eel")
FREQUENCIES = st.lists(st.floats(0, 1e6), min_size=3, max_size=3).filter(any)
POSITIVE = st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3)


def adjusted(logits: list[float], stated: list[float], taken: tuple[float, ...]) -> torch.Tensor:
    new = check_frequencies(dict(zip(LABELS, stated, strict=True)), LABELS)
    return torch.softmax(torch.tensor(logits) + torch.tensor(log_ratio(new, taken)), dim=0)


@given(FREQUENCIES)
def test_shares_and_counts_come_to_the_same(stated: list[float]) -> None:
    found = check_frequencies(dict(zip(LABELS, stated, strict=True)), LABELS)
    assert math.fsum(found) == pytest.approx(1)
    again = check_frequencies({label: 10 * value for label, value in zip(LABELS, stated, strict=True)}, LABELS)
    assert found == pytest.approx(again)


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3), POSITIVE)
def test_what_is_assumed_anyway_changes_nothing(logits: list[float], shares: list[float]) -> None:
    own = dict(zip(LABELS, [one / sum(shares) for one in shares], strict=True))
    plain = torch.softmax(torch.tensor(logits), dim=0)
    assert torch.allclose(adjusted(logits, shares, assumed(own, LABELS)), plain, atol=1e-5)
    assert torch.allclose(adjusted(logits, [3.0, 3.0, 3.0], assumed({}, LABELS)), plain, atol=1e-5)


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3), FREQUENCIES)
def test_probabilities_sum_to_1_and_what_does_not_occur_has_none(logits: list[float], stated: list[float]) -> None:
    assume(max(stated) > 1e-3)
    found = adjusted(logits, stated, assumed({}, LABELS))
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    for value, probability in zip(stated, found.tolist(), strict=True):
        if value == 0:
            assert probability == 0


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), POSITIVE)
def test_it_is_bayes_rule(logits: list[float], stated: list[float]) -> None:
    taken = assumed({"cat": 0.5, "dog": 0.3, "eel": 0.2}, LABELS)
    p = torch.softmax(torch.tensor(logits, dtype=torch.float64), dim=0)
    weighted = p * torch.tensor(stated, dtype=torch.float64) / torch.tensor(taken, dtype=torch.float64)
    assert torch.allclose(adjusted(logits, stated, taken).double(), weighted / weighted.sum(), atol=1e-5)


def test_a_new_name_counts_as_one_of_average_frequency() -> None:
    assert assumed({"a": 0.6, "b": 0.2, "c": 0.2}, ("a", "new")) == pytest.approx(
        (0.6 / (0.6 + 1 / 3), (1 / 3) / (0.6 + 1 / 3))
    )
    assert assumed({}, ("a", "new")) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("stated", "path", "message"),
    [
        (None, "priors", "must be an object"),
        ([0.5, 0.5], "priors", "must be an object"),
        ({}, "priors", "must be an object"),
        ({"cat": 1, "dog": 1}, "priors", "do not name 'eel'"),
        ({"cat": 1, "dog": 1, "eel": 1, "fox": 1}, "priors", "name 'fox', which the labels are not"),
        ({"cat": -0.1, "dog": 1, "eel": 1}, "priors.cat", "is -0.1"),
        ({"cat": float("nan"), "dog": 1, "eel": 1}, "priors.cat", "is nan"),
        ({"cat": float("inf"), "dog": 1, "eel": 1}, "priors.cat", "is inf"),
        ({"cat": "0.5", "dog": 1, "eel": 1}, "priors.cat", "is 0.5"),
        ({"cat": True, "dog": 1, "eel": 1}, "priors.cat", "is True"),
        ({"cat": 10**400, "dog": 1, "eel": 1}, "priors.cat", "is 1000"),
        ({"cat": 0, "dog": 0, "eel": 0.0}, "priors", "are all 0"),
    ],
)
def test_each_fault_has_its_place(stated: Any, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_frequencies(stated, LABELS)
    assert any(fault.path == path and message in fault.message for fault in caught.value.faults), caught.value.faults


def test_many_labels_are_not_all_listed() -> None:
    labels = tuple(f"c{number}" for number in range(100))
    with pytest.raises(ConfigError, match="and 94 more; give 0"):
        check_frequencies({"c0": 1}, labels)
