"""Tip-Adapter(-F) and the linear probe, against their equations in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from npt_core.data.sampling import stratified_folds
from npt_core.methods.tip_adapter import ALPHAS, BETAS
from tests.parity.straight import LABELS, PHRASINGS, fresh, give, hand_written, plain, scale, unit

pytestmark = pytest.mark.usefixtures("wide")


def features(n: int, views: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return unit(torch.randn(n, views, 16, generator=g, dtype=torch.float64))


def voted(x: Tensor, keys: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """(B, K): zero-shot logits and alpha times every key's vote, exp(-beta (1 - x . key)) for its class."""
    logits = scale() * x @ hand_written().t()
    for i, one in enumerate(x):
        for key, label in zip(keys, labels.tolist(), strict=True):
            logits[i, label] = logits[i, label] + alpha * torch.exp(-beta * (1 - one @ key))
    return logits


def cached(alpha: float | None, beta: float | None, f: Tensor, y: Tensor, **config: Any) -> Any:
    m = fresh("tip_adapter", alpha=alpha, beta=beta, **config)
    m.fit(f, y)
    return m.double()


def test_tip_adapter_s_keys_are_unit_means_of_views() -> None:
    f, y = features(8, 3, 5), torch.arange(8) % 4
    m = cached(2.0, 3.0, f, y)
    torch.testing.assert_close(m.keys.detach(), unit(f.mean(1)), rtol=0, atol=1e-6)  # keys are float32
    assert torch.equal(m.values, y)
    m.keys.data = unit(f.mean(1))
    torch.testing.assert_close(m(give()).logits, voted(plain(), unit(f.mean(1)), y, 2.0, 3.0), rtol=0, atol=1e-9)


def test_tip_adapter_f_tunes_keys_and_reads_their_directions() -> None:
    f, y = features(8, 2, 5), torch.arange(8) % 4
    m = cached(2.0, 3.0, f, y, finetune=True)
    keys = torch.randn(8, 16, generator=torch.Generator().manual_seed(6), dtype=torch.float64)  # as tuning leaves them
    m.keys.data = keys.clone()
    logits = m(give()).logits
    straight = keys.clone().requires_grad_()
    expected = voted(plain(), unit(straight), y, 2.0, 3.0)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    assert not torch.allclose(
        logits.detach(), voted(plain(), keys, y, 2.0, 3.0)
    )  # the released one reads them as they are
    (ours,) = torch.autograd.grad(F.cross_entropy(logits, LABELS), [m.keys])
    (theirs,) = torch.autograd.grad(F.cross_entropy(expected, LABELS), [straight])
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(None, None), (None, 5.5), (3.0, None)])
def test_tip_adapter_s_factors_have_the_least_loss_on_folds_of_the_training_images(
    alpha: float | None, beta: float | None
) -> None:
    f, y = features(16, 2, 8), torch.arange(16) % 4
    f = unit(f + 1.5 * unit(torch.eye(16, dtype=torch.float64)[:4])[y][:, None])  # classes that keys can tell apart
    m = cached(alpha, beta, f, y)
    fold_of, keys, x = torch.as_tensor(stratified_folds(y.tolist(), 3, 0)), unit(f.mean(1)), f[:, 0]
    found = {}
    for a in ALPHAS if alpha is None else (alpha,):
        for b in BETAS if beta is None else (beta,):
            logits = torch.zeros(16, 4, dtype=torch.float64)
            for fold in range(3):
                mine, others = fold_of == fold, fold_of != fold
                logits[mine] = voted(x[mine], keys[others], y[others], a, b)
            found[a, b] = float(F.cross_entropy(logits, y))
    best = min(found, key=lambda pair: found[pair])
    assert m.blend.tolist() == pytest.approx(best)
    assert len(set(found.values())) == len(found)


def test_tip_adapter_without_an_image_of_the_last_class() -> None:
    m = cached(2.0, 3.0, features(3, 1, 1), LABELS)
    assert m(give()).logits.shape == (3, 4)


@pytest.mark.parametrize("k", [2, 4])
def test_the_linear_probe_is_a_penalised_logistic_regression(k: int) -> None:
    m = fresh("linear_probe", PHRASINGS[:k], strength=10.0)
    f, y = features(6 * k, 2, 7), torch.arange(6 * k) % k
    m.fit(f, y)
    x, yy = f.flatten(0, 1), y.repeat_interleave(2)
    w, b = torch.zeros(k, 16, dtype=torch.float64), torch.zeros(k, dtype=torch.float64)
    w.requires_grad_(), b.requires_grad_()
    opt = torch.optim.LBFGS(
        [w, b], max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )
    share = 0.5 if k > 2 else 1.0  # K=2: scikit-learn penalises the one row w_1 - w_0, |w_1 - w_0|^2 / 2 = |W|^2

    def loss() -> Tensor:
        opt.zero_grad()
        value = 10.0 * F.cross_entropy(x @ w.t() + b, yy, reduction="sum") + share * w.square().sum()
        value.backward()
        return value

    opt.step(loss)
    ours = torch.softmax(m(give()).logits, 1)
    torch.testing.assert_close(ours, torch.softmax(plain() @ w.t() + b, 1).detach(), rtol=0, atol=2e-3)
