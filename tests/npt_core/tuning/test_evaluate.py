"""Metrics against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from npt_core.report.statistics import wilson_interval
from npt_core.tuning.evaluate import calibration_error, mcnemar, metrics, paired, summarise


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_interval_equals_scipy(total: int, share: float) -> None:
    right = round(share * total)
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    found = wilson_interval(right, total)
    assert found is not None
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_image_no_interval() -> None:
    assert wilson_interval(0, 0) is None


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(3, 60), st.integers(0, 2**16))
def test_metrics_equal_sklearn(num_classes: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, num_classes, generator=generator)
    labels = torch.randint(num_classes, (n,), generator=generator)
    found = metrics(logits, labels, [f"c{k}" for k in range(num_classes)])
    predicted, classes = logits.argmax(1).numpy(), list(range(num_classes))
    assert found["accuracy"] == pytest.approx((predicted == labels.numpy()).mean())
    assert found["confusion"] == confusion_matrix(labels, predicted, labels=classes).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    for k, entry in enumerate(found["per_class"]):
        assert entry["support"] == support[k]
        assert (entry["precision"] or 0) == pytest.approx(precision[k])
        assert (entry["recall"] or 0) == pytest.approx(recall[k])
        if support[k]:
            assert entry["f1"] == pytest.approx(f1[k])
    present = support > 0
    assert found["macro"]["f1"] == pytest.approx(f1[present].mean())
    assert found["macro"]["recall"] == pytest.approx(recall[present].mean())
    expected = log_loss(labels, torch.softmax(logits.double(), 1).numpy(), labels=classes)
    assert found["nll"] == pytest.approx(expected, rel=1e-5)
    low, high = found["accuracy_interval"]
    assert 0 <= low <= found["accuracy"] <= high <= 1


def test_what_is_undefined_is_none() -> None:
    found = metrics(torch.tensor([[5.0, 0, 0], [5, 0, 0]]), torch.tensor([0, 1]), ["a", "b", "c"])
    a, b, c = found["per_class"]
    assert a == {"label": "a", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert b == {"label": "b", "precision": None, "recall": 0.0, "f1": 0.0, "support": 1}
    assert c == {"label": "c", "precision": None, "recall": None, "f1": None, "support": 0}
    assert found["most_confused"] == [{"label": "b", "predicted": "a", "count": 1}]


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.45, 0.55]])
    labels = np.array([0, 1, 0, 1])
    # one bin at 0.95 with half of two right, one at 0.55 with both of two right
    expected = 0.5 * abs(0.5 - 0.95) + 0.5 * abs(1.0 - 0.55)
    assert calibration_error(probabilities, labels) == pytest.approx(expected)
    assert calibration_error(np.eye(3), np.arange(3)) == 0


def test_paired_counts_and_p_value() -> None:
    def logits(right: list[bool]) -> torch.Tensor:
        return torch.tensor([[1.0, 0] if one else [0, 1.0] for one in right])

    zero_shot = logits([True] * 5 + [False] * 9 + [True] * 2 + [False] * 1)
    tuned = logits([True] * 5 + [True] * 9 + [False] * 2 + [False] * 1)
    found = paired(zero_shot, tuned, torch.zeros(17, dtype=torch.int64))
    assert (found["both_right"], found["only_tuned_right"], found["only_zero_shot_right"]) == (5, 9, 2)
    assert found["both_wrong"] == 1
    assert found["difference"] == pytest.approx(7 / 17)
    assert found["p_value"] == pytest.approx(binomtest(2, 11).pvalue)
    same = paired(tuned, tuned, torch.zeros(17, dtype=torch.int64))
    assert same["p_value"] == 1.0


def test_summaries_of_answers_equal_those_of_logits_and_allow_a_class_the_classifier_does_not_know() -> None:
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
    truth = torch.arange(40) % 3
    p = logits.double().softmax(1)
    own = p[torch.arange(40), truth].log().numpy()
    given = summarise(truth.numpy(), logits.argmax(1).numpy(), p.amax(1).numpy(), own, ["a", "b", "c"])
    assert given == metrics(logits, truth, ["a", "b", "c"])
    own[0] = -np.inf
    assert summarise(truth.numpy(), logits.argmax(1).numpy(), p.amax(1).numpy(), own, ["a", "b", "c"])["nll"] is None


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    right = [(True, False)] * first + [(False, True)] * second + [(True, True)] * 4 + [(False, False)] * 3
    found = mcnemar(*np.array(right).T)
    n = first + second
    assert found["p_value"] == pytest.approx(binomtest(first, n).pvalue if n else 1.0)
    assert (found["only_first_right"], found["only_second_right"]) == (first, second)
    assert (found["both_right"], found["both_wrong"]) == (4, 3)
    assert found["difference"] == pytest.approx((first - second) / len(right))
    assert mcnemar(*np.array(right).T[::-1])["p_value"] == found["p_value"]


def test_mcnemar_of_many_images_does_not_overflow() -> None:
    first, second = np.arange(20_000) < 10_050, np.arange(20_000) >= 10_050
    assert mcnemar(first, second)["p_value"] == pytest.approx(binomtest(10_050, 20_000).pvalue)
