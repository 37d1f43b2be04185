"""The numbers of neural-collapse geometry, on frames whose geometry is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.collapse import geometry as module
from npt_core.collapse.geometry import (
    NUMBERS,
    class_means,
    directions,
    geometry,
    lmc_minimum,
    mean_over_pairs,
    mean_squared_deviation,
    pairwise_deviation,
    within_class,
)
from tests.support.frames import etf, orthogonal


def test_an_etf_has_ideal_numbers() -> None:
    frame = etf(5, 16)
    found = geometry(frame, frame * 0.3 + 0.1, scale=10.0)
    assert found["equiangularity_mean"] == pytest.approx(0, abs=1e-6)
    assert found["equiangularity_max"] == pytest.approx(0, abs=1e-6)
    assert found["image_equiangularity_max"] == pytest.approx(0, abs=1e-5)
    assert found["equinorm"] == pytest.approx(0, abs=1e-6)
    assert found["duality"] == pytest.approx(1, abs=1e-6)
    assert found["lmc"] == pytest.approx(0, abs=1e-10)
    assert found["mmi"] == pytest.approx(0, abs=1e-6)


def test_the_modality_gap_does_not_count() -> None:
    frame = etf(4, 8)
    moved = frame + 3 * torch.nn.functional.normalize(torch.ones(8), dim=0)
    assert geometry(moved, frame, scale=1.0)["duality"] == pytest.approx(1, abs=1e-5)


def test_off_an_etf_the_numbers_say_how_far() -> None:
    text = torch.eye(3)[:, :3] + torch.tensor([[0.5, 0, 0], [0, 0, 0], [0, 0, 0]])
    found = geometry(text, torch.eye(3), scale=1.0)
    unit = (text - text.mean(0)) / (text - text.mean(0)).norm(dim=1, keepdim=True)
    cosines = [float(unit[i] @ unit[j]) for i in range(3) for j in range(3) if i != j]
    assert found["equiangularity_mean"] == pytest.approx(np.mean([abs(c + 0.5) for c in cosines]), rel=1e-5)
    assert found["equiangularity_max"] == pytest.approx(max(abs(c + 0.5) for c in cosines), rel=1e-5)
    norms = (text - text.mean(0)).norm(dim=1).numpy()
    assert found["equinorm"] == pytest.approx(norms.std() / norms.mean(), rel=1e-5)


def test_two_classes_have_no_angles_to_speak_of() -> None:
    found = geometry(torch.randn(2, 8), torch.randn(2, 8), scale=1.0)
    assert found["equiangularity_mean"] is None
    assert found["equinorm"] is None
    assert found["duality"] is not None


def test_without_text_only_image_numbers_are_there() -> None:
    found = geometry(None, etf(4, 8), scale=1.0)
    assert set(found) == set(NUMBERS)
    assert found["duality"] is None
    assert found["image_equiangularity_mean"] == pytest.approx(0, abs=1e-6)


def test_bias_spread_is_the_std_of_the_term_the_losses_do_not_see() -> None:
    text, means = torch.randn(5, 8), torch.randn(5, 8)
    expected = (7.0 * text @ means.mean(0)).numpy().std()
    assert geometry(text, means, scale=7.0)["bias_spread"] == pytest.approx(expected, rel=1e-5)


def test_image_conditional_text_is_judged_image_by_image() -> None:
    # The mean over the batch is an ETF, no image's own text is one: the numbers must not be fooled.
    frame = etf(4, 8)
    noise = torch.randn(1, 4, 8)
    pair = torch.cat([frame + noise, frame - noise])
    labels = torch.tensor([0, 1])
    fooled = geometry(pair.mean(dim=0), frame, scale=1.0)
    found = geometry(pair, frame, scale=1.0, labels=labels)
    assert fooled["lmc"] == pytest.approx(0, abs=1e-6)
    assert found["lmc"] > 0.01
    first, second = directions(pair)[0, 0] @ frame[0], directions(pair)[1, 1] @ frame[1]
    assert found["duality"] == pytest.approx(float(first + second) / 2, rel=1e-4)


def test_class_means_weigh_every_class_alike_and_every_view() -> None:
    features = torch.tensor([[[1.0, 0], [3, 0]], [[0, 2], [0, 4]], [[0, 6], [0, 8]]])
    means = class_means(features, torch.tensor([0, 1, 1]), 2)
    assert means.tolist() == [[2, 0], [0, 5]]


def test_within_class_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    features = rng.normal(size=(9, 5)) + labels[:, None]
    means = np.stack([features[labels == k].mean(0) for k in range(3)])
    between = sum(np.outer(m - means.mean(0), m - means.mean(0)) for m in means) / 3
    within = (
        sum(
            sum(np.outer(x - means[k], x - means[k]) for x in features[labels == k]) / (labels == k).sum()
            for k in range(3)
        )
        / 3
    )
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3
    found = within_class(torch.tensor(features), torch.tensor(labels), 3)
    assert found == pytest.approx(expected, rel=1e-6)


def test_within_class_is_undefined_with_one_image_and_zero_when_collapsed() -> None:
    assert within_class(torch.randn(3, 4), torch.tensor([0, 1, 1]), 2) is None
    collapsed = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert within_class(collapsed, torch.tensor([0, 0, 1, 1]), 2) == pytest.approx(0, abs=1e-9)
    assert within_class(torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), 2) is None


def test_equal_features_give_null_not_nan() -> None:
    found = geometry(torch.ones(3, 4), torch.ones(3, 4), scale=1.0)
    assert found["equinorm"] is None
    assert all(value is None or np.isfinite(value) for value in found.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 9), st.integers(2, 12), st.integers(0, 2**16))
def test_rotation_and_order_change_nothing(num_classes: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(num_classes, dim, generator=generator)
    means = torch.randn(num_classes, dim, generator=generator)
    turn = orthogonal(dim, seed)
    order = torch.randperm(num_classes, generator=generator)
    before = geometry(text, means, scale=3.0)
    after = geometry(text[order] @ turn, means[order] @ turn, scale=3.0)
    for name in NUMBERS:
        if before[name] is not None:
            assert after[name] == pytest.approx(before[name], abs=2e-4), name


@pytest.mark.parametrize(("num_classes", "dim"), [(3, 2), (5, 4), (4, 2), (6, 2), (9, 3), (40, 7)])
def test_the_minimum_of_lmc_is_a_lower_bound(num_classes: int, dim: int) -> None:
    bound = lmc_minimum(num_classes, dim)
    assert bound >= 0
    assert (bound == 0) == (num_classes <= dim + 1)
    for seed in range(20):
        text = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(seed))
        assert float(mean_over_pairs(pairwise_deviation(directions(text)).square())) >= bound - 1e-6


@settings(deadline=None)
@given(st.integers(3, 40), st.integers(1, 12), st.sampled_from([(), (1,), (3,)]), st.booleans(), st.integers(0, 2**16))
def test_squares_over_pairs_need_no_pairs(
    num_classes: int, dim: int, leading: tuple[int, ...], center: bool, seed: int
) -> None:
    features = torch.randn(*leading, num_classes, dim, generator=torch.Generator().manual_seed(seed))
    unit = directions(features, center=center).double().requires_grad_()  # the sum itself, without float32's rounding
    pairs, found = mean_over_pairs(pairwise_deviation(unit).square()), mean_squared_deviation(unit)
    assert float(found.detach()) == pytest.approx(float(pairs.detach()), rel=1e-9, abs=1e-12)
    (wanted,), (gradient,) = torch.autograd.grad(pairs, unit), torch.autograd.grad(found, unit)
    assert torch.allclose(gradient, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_classes", [128, 256, 500])  # 2, 4 and 8 of the 64 dimensions
def test_it_holds_in_float32(num_classes: int) -> None:
    unit = directions(torch.randn(num_classes, 64, generator=torch.Generator().manual_seed(0)))
    pairs = mean_over_pairs(pairwise_deviation(unit.double()).square())
    assert float(mean_squared_deviation(unit)) == pytest.approx(float(pairs), rel=1e-5)


def test_many_classes_make_no_square_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = directions(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(module, "pairwise_deviation", None)  # which would make (K, K) values
    assert float(mean_squared_deviation(unit)) > lmc_minimum(50, 8)


@pytest.mark.parametrize("shape", [(7, 5), (23, 4), (3, 11, 6)])
def test_angles_are_the_same_in_pieces(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    text = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    deviation = pairwise_deviation(directions(text)).abs()
    monkeypatch.setattr(module, "ROWS", 5)
    found = geometry(text, None, scale=1.0)
    assert found["equiangularity_mean"] == pytest.approx(float(mean_over_pairs(deviation)), rel=1e-5)
    assert found["equiangularity_max"] == pytest.approx(float(deviation.max()), rel=1e-5)


@pytest.mark.parametrize("num_classes", [4, 5, 8, 13])
def test_the_minimum_of_lmc_is_reached_by_a_polygon(num_classes: int) -> None:
    # K > d + 1: the regular polygon is a tight frame of zero sum in the plane.
    angle = torch.arange(num_classes) * 2 * torch.pi / num_classes
    polygon = torch.stack([angle.cos(), angle.sin()], dim=1)
    found = geometry(polygon, polygon, scale=1.0)
    assert found["lmc"] == pytest.approx(lmc_minimum(num_classes, 2), rel=1e-5)
    assert found["lmc_excess"] == pytest.approx(0, abs=1e-6)
