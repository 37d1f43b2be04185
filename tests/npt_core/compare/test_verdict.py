"""The verdict from answers: order, Holm's correction, disagreements; against plain restatements."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.classifier import Scores
from npt_core.compare.verdict import Answers, Comparison, judge
from npt_core.data.ingest import Sample

LABELS = ("a", "b", "c")


def sample(number: int, label: str) -> Sample:
    return Sample(path=f"{label}/{number}.png", label=label, split="test", sha256=f"{number:064x}", size=1)


def answers(name: str, samples: list[Sample], said: list[int], sure: float = 0.8) -> Answers:
    """Every answer has the probability `sure`, the others share the rest."""
    rest = (1 - sure) / (len(LABELS) - 1)
    probabilities = torch.full((len(said), len(LABELS)), rest)
    probabilities[torch.arange(len(said)), torch.tensor(said)] = sure
    one = Answers(name, {}, LABELS)
    half = len(said) // 2
    for part in (slice(0, half), slice(half, None)):
        some = samples[part]
        if some:
            scores = Scores(LABELS, probabilities[part], probabilities[part])
            one.add(list(range(len(samples)))[part], [each.label for each in some], scores)
    one.keep(range(len(samples)))
    return one


def verdict(samples: list[Sample], **said: list[int]) -> Comparison:
    told = [answers(name, samples, guesses) for name, guesses in said.items()]
    return judge(samples, told, {"tuned_on": 0, "seen": "leave-out"})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_best_come_first_and_holm_never_lowers_a_p_value(data: st.DataObject) -> None:
    n, m = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 5))
    guesses = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    samples = [sample(i, LABELS[label]) for i, label in enumerate(data.draw(guesses))]
    said = {f"m{i}": data.draw(guesses) for i in range(m)}
    found = verdict(samples, **said)
    right = {
        name: np.array([LABELS[guess] == one.label for guess, one in zip(told, samples, strict=True)])
        for name, told in said.items()
    }
    accuracy = [one["metrics"]["accuracy"] for one in found.contestants]
    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy == pytest.approx([right[one["name"]].mean() for one in found.contestants])
    assert len(found.pairs) == m * (m - 1) // 2
    ordered = sorted(found.pairs, key=lambda pair: pair["p_value"])
    adjusted = [pair["p_holm"] for pair in ordered]
    assert adjusted == sorted(adjusted)
    for rank, pair in enumerate(ordered):
        assert pair["p_value"] <= pair["p_holm"] <= 1
        assert pair["p_holm"] >= min(1, pair["p_value"] * (len(ordered) - rank)) - 1e-12
        assert pair["significant"] == (pair["p_holm"] < 0.05)
    first, second = found.best
    assert (found.test["first"], found.test["second"]) == (first, second)
    differ = int((right[first] != right[second]).sum())
    assert len(found.disagreements) == min(differ, 50)
    assert found.test["only_first_right"] + found.test["only_second_right"] == differ


def test_words_say_who_is_better_or_that_it_may_be_chance() -> None:
    samples = [sample(i, "a") for i in range(40)]
    clear = verdict(samples, good=[0] * 40, bad=[1] * 40)
    assert "good is better (p = 1.8e-12)" in clear.test["words"]
    close = verdict(samples, one=[0] * 39 + [1], two=[0] * 38 + [1, 1])
    assert "one alone is right on 1 of 40 images, two alone on 0: that can be chance" in close.test["words"]


def test_words_use_the_name_and_version_of_a_model() -> None:
    samples = [sample(i, "a") for i in range(4)]
    first, second = answers("model_1", samples, [0] * 4), answers("zero-shot", samples, [1] * 4)
    first.facts |= {"title": "digits", "version": 3}
    words = judge(samples, [first, second], {"tuned_on": 0, "seen": "keep"}).test["words"]
    assert words.startswith("digits v3 alone is right on 4 of 4 images, zero-shot alone on 0:")


def test_of_equal_accuracy_the_surer_one_is_first() -> None:
    samples = [sample(i, "a") for i in range(10)]
    told = [answers("shy", samples, [0] * 10, 0.5), answers("sure", samples, [0] * 10, 0.9)]
    assert judge(samples, told, {"tuned_on": 0, "seen": "keep"}).best == ["sure", "shy"]


def test_an_nll_of_zero_is_the_best_there_is() -> None:
    samples = [sample(i, "a") for i in range(10)]
    told = [answers("shy", samples, [0] * 10, 0.5), answers("certain", samples, [0] * 10, 1.0)]
    found = judge(samples, told, {"tuned_on": 0, "seen": "keep"})
    assert found.contestants[0]["metrics"]["nll"] == 0
    assert found.best == ["certain", "shy"]


def test_scores_that_are_no_numbers_have_no_calibration_error() -> None:
    samples = [sample(i, "a") for i in range(4)]
    told = [answers("sound", samples, [0] * 4), answers("broken", samples, [0] * 4, float("nan"))]
    by_name = {one["name"]: one["metrics"] for one in judge(samples, told, {"tuned_on": 0, "seen": "keep"}).contestants}
    assert by_name["sound"]["calibration_error"] == pytest.approx(0.2)
    assert (by_name["broken"]["calibration_error"], by_name["broken"]["nll"]) == (None, None)


def test_disagreements_begin_with_the_surest_mistake() -> None:
    samples = [sample(i, "a") for i in range(4)]
    first = answers("first", samples, [0, 0, 0, 1], 0.6)
    second = answers("second", samples, [1, 0, 0, 0], 0.9)
    found = judge(samples, [first, second], {"tuned_on": 0, "seen": "keep"}).disagreements
    assert [PurePosixPath(one["path"]).stem for one in found] == ["0", "3"]
    assert found[0]["answers"]["second"] == {"label": "b", "probability": pytest.approx(0.9)}


def test_answers_are_kept_by_image_not_by_turn() -> None:
    probabilities = torch.eye(3)[[0, 1, 2]] * 0.7 + 0.1
    one = Answers("one", {}, LABELS)
    one.add([5, 2, 9], ["a", "b", "c"], Scores(LABELS, probabilities, probabilities))
    one.keep([9, 5])
    assert one.indices == [9, 5]
    assert one.predicted == ["c", "a"]
