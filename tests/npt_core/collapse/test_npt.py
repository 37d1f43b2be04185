"""The NPT losses: values on known frames, gradients against finite differences, the design points of docs/method.md."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.collapse import (
    CollapseContext,
    CollapseSetup,
    check_pair,
    get_regularizer,
    list_regularizers,
)
from npt_core.collapse.geometry import EPS, lmc_minimum
from npt_core.collapse.npt import lmc_loss, mmi_loss
from npt_core.errors import ConfigError, IncompatibleError
from tests.support.frames import etf, orthogonal


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def straight_lmc(text: torch.Tensor) -> float:
    """L_LMC as docs/method.md writes it, pair by pair."""
    hat = text - text.mean(0)
    hat = hat / hat.norm(dim=1, keepdim=True)
    k = len(text)
    total = sum(float(hat[i] @ hat[j] + 1 / (k - 1)) ** 2 for i in range(k) for j in range(k) if i != j)
    return total / (k * (k - 1))


def straight_mmi(text: torch.Tensor, means: torch.Tensor) -> float:
    """L_MMI as docs/method.md writes it, class by class."""
    t, m = text - text.mean(0), means - means.mean(0)
    t, m = t / t.norm(dim=1, keepdim=True), m / m.norm(dim=1, keepdim=True)
    return sum(1 - float(a @ b) for a, b in zip(t, m, strict=True)) / len(text)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 10), st.integers(2, 20), st.integers(0, 2**16))
def test_both_terms_equal_their_formulas(num_classes: int, dim: int, seed: int) -> None:
    text, means = draw(num_classes, dim, seed=seed), draw(num_classes, dim, seed=seed + 1)
    assert float(lmc_loss(text)) == pytest.approx(straight_lmc(text), rel=1e-4, abs=1e-6)
    assert float(mmi_loss(text, means)) == pytest.approx(straight_mmi(text, means), rel=1e-4, abs=1e-6)


def test_without_centring_the_directions_are_the_features_own() -> None:
    text, means = draw(4, 6), draw(4, 6, seed=1)
    t, m = text / text.norm(dim=1, keepdim=True), means / means.norm(dim=1, keepdim=True)
    pairs = [float(t[i] @ t[j] + 1 / 3) ** 2 for i in range(4) for j in range(4) if i != j]
    assert float(lmc_loss(text, center=False)) == pytest.approx(sum(pairs) / 12, rel=1e-4)
    assert float(mmi_loss(text, means, center=False)) == pytest.approx(float(1 - (t * m).sum(1).mean()), rel=1e-4)
    seen = torch.tensor([True, False, True, True])
    of_seen = float(1 - (t * m).sum(1)[seen].mean())
    assert float(mmi_loss(text, means, seen=seen, center=False)) == pytest.approx(of_seen, rel=1e-4)


def test_centring_is_the_default_and_an_option() -> None:
    centred, context = make(lambda_lmc=1.0, lambda_mmi=0.0)
    plain, _ = make(lambda_lmc=1.0, lambda_mmi=0.0, center=False)
    assert float(centred.losses(context)["lmc"]) == float(lmc_loss(context.text_features))
    assert float(plain.losses(context)["lmc"]) == float(lmc_loss(context.text_features, center=False))
    assert float(plain.losses(context)["lmc"]) != float(centred.losses(context)["lmc"])


@pytest.mark.parametrize("num_classes", [3, 4, 7])
def test_an_etf_costs_nothing(num_classes: int) -> None:
    frame = etf(num_classes, 12)
    assert float(lmc_loss(frame)) == pytest.approx(0, abs=1e-10)
    assert float(lmc_loss(frame, center=False)) == pytest.approx(0, abs=1e-10)
    assert float(mmi_loss(frame, 0.2 * frame + 1)) == pytest.approx(0, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.integers(2, 9), st.integers(0, 2**16), st.booleans())
def test_rotation_and_order_of_classes_change_nothing(num_classes: int, dim: int, seed: int, center: bool) -> None:
    text, means = draw(num_classes, dim, seed=seed), draw(num_classes, dim, seed=seed + 1)
    turn, order = orthogonal(dim, seed), torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed))
    for loss in (
        lambda t, m: lmc_loss(t, center=center),
        lambda t, m: mmi_loss(t, m, center=center),
    ):
        assert float(loss(text[order] @ turn, means[order] @ turn)) == pytest.approx(float(loss(text, means)), abs=2e-4)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("conditional", [False, True])
def test_gradients_agree_with_finite_differences(center: bool, conditional: bool) -> None:
    text = draw(2, 4, 6) if conditional else draw(4, 6)
    text = text.double().requires_grad_()
    means = draw(4, 6, seed=5).double().requires_grad_()
    labels = torch.tensor([1, 3]) if conditional else None

    # The losses compute in float32, too coarse for a numeric derivative: check them in float64 through the same code.
    def total(t: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", lambda self: self)
            return lmc_loss(t, center=center) + 2 * mmi_loss(t, m, labels=labels, center=center)

    assert torch.autograd.gradcheck(total, (text, means), eps=1e-6, atol=1e-6)


def test_two_classes_make_lmc_identically_zero() -> None:
    text = draw(2, 8).requires_grad_()
    loss = lmc_loss(text)
    loss.backward()
    assert loss.item() == 0
    assert float(text.grad.abs().max()) == 0
    assert lmc_loss(text, center=False).item() > 0  # without centring two vectors can be anything


def test_coincident_texts_have_a_finite_bounded_gradient() -> None:
    for gap in (0.0, 1e-9, 1e-6, 1e-4):
        text = (torch.ones(3, 8) + gap * draw(3, 8)).requires_grad_()
        (lmc_loss(text) + mmi_loss(text, draw(3, 8, seed=2))).backward()
        assert torch.isfinite(text.grad).all()
        assert float(text.grad.norm()) < 5 / EPS
    exact = torch.ones(3, 8, requires_grad=True)
    lmc_loss(exact).backward()
    assert float(exact.grad.abs().max()) < 1e-6


def test_beyond_d_plus_one_descent_reaches_the_exact_minimum() -> None:
    text = draw(6, 3).requires_grad_()
    optimizer = torch.optim.Adam([text], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        lmc_loss(text).backward()
        optimizer.step()
    assert lmc_minimum(6, 3) > 0
    assert lmc_loss(text).item() == pytest.approx(lmc_minimum(6, 3), rel=1e-2)


def descend(weights: tuple[float, float], means: torch.Tensor) -> tuple[float, float]:
    """Both terms where a weighted sum of them is least over all text features."""
    text = draw(4, 6, seed=7).requires_grad_()
    optimizer = torch.optim.Adam([text], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (weights[0] * lmc_loss(text) + weights[1] * mmi_loss(text, means)).backward()
        optimizer.step()
    found = text.detach()
    return float(lmc_loss(found)), float(mmi_loss(found, means))


def test_images_that_cannot_move_and_are_no_etf_set_the_terms_against_each_other() -> None:
    means = draw(4, 6, seed=3)
    assert descend((1, 0), means)[0] == pytest.approx(0, abs=1e-4)
    assert descend((0, 1), means)[1] == pytest.approx(0, abs=1e-4)
    balance, text_first = descend((1, 1), means), descend((10, 1), means)
    assert min(balance) > 1e-3  # neither reaches 0 beside the other
    assert text_first[0] < balance[0]  # the weights settle where they meet
    assert text_first[1] > balance[1]
    assert max(descend((1, 1), etf(4, 6))) < 1e-4  # images that are an ETF do not stand in the way


def test_conditional_text_averages_the_loss_of_each_image() -> None:
    frame, noise = etf(4, 8), draw(4, 8)
    both = torch.stack([frame + noise, frame - noise])
    assert float(lmc_loss(both.mean(0))) == pytest.approx(0, abs=1e-6)
    assert float(lmc_loss(both)) == pytest.approx((straight_lmc(both[0]) + straight_lmc(both[1])) / 2, rel=1e-4)


def test_conditional_mmi_compares_a_class_through_its_own_images() -> None:
    text, means, labels = draw(3, 4, 6), draw(4, 6, seed=1), torch.tensor([2, 2, 0])
    hat = text - text.mean(1, keepdim=True)
    hat = hat / hat.norm(dim=2, keepdim=True)
    m = means - means.mean(0)
    m = m / m.norm(dim=1, keepdim=True)
    of_two = (1 - hat[0, 2] @ m[2] + 1 - hat[1, 2] @ m[2]) / 2
    expected = float(of_two + 1 - hat[2, 0] @ m[0]) / 2  # two classes are present, each weighs the same
    assert float(mmi_loss(text, means, labels=labels)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="labels"):
        mmi_loss(text, means)


def test_unseen_classes_take_no_part_in_mmi() -> None:
    text, means, seen = draw(4, 6), draw(4, 6, seed=1), torch.tensor([True, False, True, True])
    moved = means.clone()
    moved[1] = 100.0
    assert float(mmi_loss(text, means, seen=seen)) == float(mmi_loss(text, moved, seen=seen))
    assert float(mmi_loss(text, means, seen=torch.ones(4, dtype=torch.bool))) == pytest.approx(
        float(mmi_loss(text, means)), rel=1e-6
    )


def make(**config: float) -> tuple[object, CollapseContext]:
    cls = get_regularizer("npt")
    setup = CollapseSetup(draw(4, 6), torch.ones(4), 0)
    context = CollapseContext(draw(4, 6), draw(5, 6), torch.tensor([0, 1, 2, 3, 0]), draw(4, 6, seed=3))
    return cls(cls.Config(**config), setup), context


def test_weights_scale_the_terms_and_zero_leaves_them_out() -> None:
    one, context = make(lambda_lmc=1.0, lambda_mmi=1.0)
    double, _ = make(lambda_lmc=2.0, lambda_mmi=0.0)
    assert set(one.losses(context)) == {"lmc", "mmi"}
    assert set(double.losses(context)) == {"lmc"}
    assert float(double.losses(context)["lmc"]) == pytest.approx(2 * float(one.losses(context)["lmc"]))
    assert one.active
    assert not make(lambda_lmc=0.0, lambda_mmi=0.0)[0].active


def test_registry_lists_and_refuses() -> None:
    assert {"none", "npt"} <= {info.name for info in list_regularizers()}
    with pytest.raises(ConfigError, match="accepted: .*npt"):
        get_regularizer("ntp")
    check_pair("coop", moves_features=True, regularizer="npt")
    check_pair("probe", moves_features=False, regularizer="none")
    with pytest.raises(IncompatibleError, match="neither text nor image"):
        check_pair("probe", moves_features=False, regularizer="npt")
