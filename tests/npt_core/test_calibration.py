"""Temperatures: what they recover, what they never change, and what few or odd images do to them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from npt_core import calibration
from npt_core.artefact import MAX_TEMPERATURE, MIN_TEMPERATURE
from npt_core.calibration import FOLDS, Calibration, certainty, cross_fitted, fit_temperature, folds_of
from npt_core.errors import ConfigError

SEEDS = st.integers(0, 10_000)


def drawn(n: int, k: int, seed: int, sharpness: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits whose softmax is the truth: the labels are drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(n, k, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]
    return logits, labels


def nll(logits: Tensor, labels: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, labels))


@given(SEEDS, st.floats(0.1, 10), st.integers(2, 30))
def test_a_known_temperature_is_recovered(seed: int, temperature: float, k: int) -> None:
    logits, labels = drawn(3000, k, seed)
    fit = fit_temperature(logits * temperature, labels)
    assert fit.temperature == pytest.approx(temperature, rel=0.15)
    assert fit.bound is None


@given(SEEDS, st.floats(0.1, 10))
def test_sharper_logits_take_a_higher_temperature_by_the_same_factor(seed: int, factor: float) -> None:
    logits, labels = drawn(60, 5, seed)
    alone, times = fit_temperature(logits, labels), fit_temperature(factor * logits, labels)
    assert times.temperature == pytest.approx(factor * alone.temperature, rel=1e-4)


@given(SEEDS, st.integers(1, 60), st.integers(2, 8), st.floats(0.01, 100))
def test_it_lies_between_its_bounds_and_is_finite(seed: int, n: int, k: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, k, generator=generator)
    labels = torch.randint(0, k, (n,), generator=generator)  # some classes may be missing, and nothing was learned
    assert MIN_TEMPERATURE <= fit_temperature(logits, labels).temperature <= MAX_TEMPERATURE


@given(SEEDS)
def test_with_many_images_it_has_the_least_cross_entropy(seed: int) -> None:
    logits, labels = drawn(2000, 6, seed)
    best = fit_temperature(2.5 * logits, labels).temperature
    at = nll(2.5 * logits / best, labels)
    assert all(at <= nll(2.5 * logits / (best * factor), labels) + 1e-4 for factor in (0.5, 0.8, 1.25, 2))


@given(SEEDS, st.floats(MIN_TEMPERATURE, MAX_TEMPERATURE))
def test_no_temperature_turns_an_order_over(seed: int, temperature: float) -> None:
    logits, _ = drawn(20, 7, seed)
    logits = logits.float()
    probabilities = torch.softmax(logits / temperature, dim=1)
    chosen = probabilities.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0]
    assert torch.equal(chosen, probabilities.amax(dim=1))


@pytest.mark.parametrize("count", [1, 5, 20, 400])
def test_images_that_are_all_right_leave_a_doubt_of_one_in_two_n(count: int) -> None:
    """Certainty would be the answer of least cross-entropy, and it would be nonsense."""
    labels = torch.arange(count) % 2
    logits = 30.0 * torch.nn.functional.one_hot(labels, 2).double()
    fit = fit_temperature(logits, labels)
    doubt = float(torch.softmax(logits / fit.temperature, dim=1).amin(dim=1).mean())
    assert doubt == pytest.approx(0.5 / (count + 1), rel=1e-3)
    assert fit.bound is None


def test_separated_by_a_hair_ends_at_the_lower_bound_and_says_so() -> None:
    labels = torch.arange(50) % 3
    fit = fit_temperature(1e-4 * torch.nn.functional.one_hot(labels, 3).double(), labels)
    assert (fit.temperature, fit.bound) == (MIN_TEMPERATURE, "lower")


def test_worse_than_chance_ends_at_the_upper_bound_and_says_so() -> None:
    labels = torch.arange(50) % 3
    fit = fit_temperature(-5.0 * torch.nn.functional.one_hot(labels, 3).double(), labels)
    assert (fit.temperature, fit.bound) == (MAX_TEMPERATURE, "upper")


def test_logits_that_tell_nothing_apart_have_the_temperature_1() -> None:
    assert fit_temperature(torch.full((30, 4), 7.0), torch.arange(30) % 4).temperature == 1


def test_huge_logits_do_not_overflow() -> None:
    labels = torch.arange(40) % 4
    logits = 1e6 * torch.nn.functional.one_hot(labels, 4).float()
    assert fit_temperature(logits, labels).temperature == MAX_TEMPERATURE


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ConfigError, match="NaN or infinite"):
        fit_temperature(torch.tensor([[0.0, float("nan")]]), torch.tensor([0]))


# --- cross-fitting ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_copies_share_a_fold(groups: list[int]) -> None:
    folds = folds_of(groups)
    assert len(folds) == len(groups)
    for group in set(groups):
        assert len({int(fold) for fold, own in zip(folds, groups, strict=True) if own == group}) == 1
    assert set(folds.tolist()) == set(range(min(FOLDS, len(set(groups)))))


def test_the_temperature_that_judges_an_image_never_saw_it() -> None:
    logits, labels = drawn(50, 4, 0)
    folds = folds_of(range(50))
    before = cross_fitted(logits, labels, folds).confidence
    for image in (0, 7, 49):
        turned = labels.clone()
        turned[image] = (labels[image] + 1) % 4
        after = cross_fitted(logits, turned, folds).confidence
        own = folds == folds[image]
        assert torch.equal(before[own], after[own])
        assert not torch.equal(before[~own], after[~own])


def test_an_over_confident_classifier_becomes_a_calibrated_one() -> None:
    from npt_core.tuning.calibrating import reliability

    logits, labels = drawn(1000, 5, 3, sharpness=1.5)
    before = reliability(certainty(5 * logits, labels), labels)
    after = reliability(cross_fitted(5 * logits, labels, folds_of(range(1000))), labels)
    assert before["ece"] > 0.2
    assert after["ece"] < 0.05
    assert after["nll"] < before["nll"]


# --- many classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 12, 60])
def test_pieces_give_what_the_whole_gives(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(50, 4, 1)
    folds = folds_of(range(50))
    few = torch.tensor([3, 4, 11, 12, 40])
    whole = (fit_temperature(logits, labels), fit_temperature(logits, labels, few), cross_fitted(logits, labels, folds))
    monkeypatch.setattr(calibration, "_AT_ONCE", at_once)
    cut = (fit_temperature(logits, labels), fit_temperature(logits, labels, few), cross_fitted(logits, labels, folds))
    assert [one.temperature for one in cut[:2]] == pytest.approx([one.temperature for one in whole[:2]], rel=1e-6)
    assert torch.equal(cut[2].answers, whole[2].answers)
    assert torch.allclose(cut[2].confidence, whole[2].confidence, rtol=1e-6)
    assert torch.allclose(cut[2].log_own, whole[2].log_own, rtol=1e-6)


def test_certainty_is_the_softmax_of_each_image_over_its_temperature() -> None:
    logits, labels = drawn(30, 5, 2)
    over = torch.linspace(0.5, 3.0, 30).double()
    found = certainty(logits, labels, over)
    expected = torch.log_softmax(logits.double() / over[:, None], dim=1)
    assert torch.equal(found.answers, logits.argmax(dim=1))
    assert torch.allclose(found.confidence, expected.amax(dim=1).exp())
    assert torch.allclose(found.log_own, expected[torch.arange(30), labels])
    assert fit_temperature(logits, labels, torch.arange(9)) == fit_temperature(logits[:9], labels[:9])


# --- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [Calibration(1.7, 40, "held-out"), Calibration(1.0, 0, "none", 0.5), Calibration(0.5, 20, "test-split", 0.0)],
)
def test_a_calibration_comes_back_from_its_manifest(stored: Calibration) -> None:
    assert Calibration.from_manifest(stored.to_manifest()) == stored


def test_nothing_to_keep_is_null() -> None:
    assert Calibration(source="held-out").to_manifest() is None
    assert not Calibration.from_manifest(None).fitted
    assert not Calibration(reject_below=0.5).fitted
