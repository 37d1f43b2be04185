from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from npt_core.collapse import CollapseContext, CollapseSetup, get_regularizer
from npt_core.collapse.cpt import cluster_classes, compactness_loss, stay_loss, tetf_loss


def features(k: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_clusters_follow_the_features_and_every_class_is_in_one() -> None:
    centres = torch.eye(8)[:2]
    close = normalize(centres.repeat_interleave(3, dim=0) + 0.05 * torch.randn(6, 8), dim=-1)
    found = cluster_classes(close, 2)
    assert sorted(tuple(members.tolist()) for members in found) == [(0, 1, 2), (3, 4, 5)]
    assert len(cluster_classes(close, 50)) == 6


@pytest.mark.parametrize(("num_classes", "expected"), [(2, 1), (3, 2), (10, 3), (30, 5)])
def test_about_the_root_of_k_clusters_always_the_same(num_classes: int, expected: int) -> None:
    cls, frozen = get_regularizer("cpt"), features(num_classes, d=16).float()
    setup = CollapseSetup(frozen, torch.ones(num_classes), 0)
    found = [cls(cls.Config(), setup).clusters for _ in range(2)]
    assert len(found[0]) == expected
    assert [one.tolist() for one in found[0]] == [one.tolist() for one in found[1]]
    assert sorted(k for members in found[0] for k in members.tolist()) == list(range(num_classes))
    assert len(cls(cls.Config(clusters=2), setup).clusters) == 2


@pytest.mark.parametrize("center", [True, False])
def test_text_for_every_image_is_averaged_over_the_images(center: bool) -> None:
    both = torch.stack([features(5), features(5, seed=9)])
    clusters = [torch.tensor([0, 2, 4]), torch.tensor([1, 3])]
    parts = [float(tetf_loss(one, clusters, center=center)) for one in both]
    assert float(tetf_loss(both, clusters, center=center)) == pytest.approx(sum(parts) / 2, rel=1e-5)
    frozen = features(5, seed=2)
    apart = [float(stay_loss(one, frozen)) for one in both]
    assert float(stay_loss(both, frozen)) == pytest.approx(sum(apart) / 2, rel=1e-5)


def test_without_centring_directions_are_the_features_own() -> None:
    text = features(3)
    cosines = text @ text.t()
    expected = float((cosines + 0.5 * (1 - torch.eye(3))).square().sum())
    assert float(tetf_loss(text, [torch.arange(3)], center=False)) == pytest.approx(expected, rel=1e-5)


def test_a_cluster_of_two_is_a_constant_with_centring() -> None:
    text = features(2).float().requires_grad_()
    loss = tetf_loss(text, [torch.arange(2)])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.0, rel=1e-5)
    assert float(text.grad.abs().max()) < 1e-5
    assert float(tetf_loss(text, [torch.arange(2)], center=False).detach()) > 2.1


def test_coincident_texts_have_a_finite_gradient() -> None:
    for gap in (0.0, 1e-9, 1e-4):
        text = (torch.ones(3, 8) + gap * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
        tetf_loss(text, [torch.arange(3)]).backward()
        assert torch.isfinite(text.grad).all()


def test_tetf_is_written_out() -> None:
    text = features(5)
    clusters = [torch.tensor([0, 1, 2]), torch.tensor([3]), torch.tensor([4])]
    part = text[:3] - text[:3].mean(dim=0)
    expected = 0.0
    for j in range(3):
        for k in range(3):
            cosine = float(part[j] @ part[k] / part[j].norm() / part[k].norm())
            expected += (cosine + (0.5 if j != k else 0.0)) ** 2
    assert float(tetf_loss(text, clusters)) == pytest.approx(expected / 3, rel=1e-5)


def test_at_a_simplex_only_the_constant_diagonal_is_left() -> None:
    simplex = normalize(torch.eye(4) - 0.25, dim=-1)
    assert float(tetf_loss(simplex, [torch.arange(4)])) == pytest.approx(4.0, rel=1e-5)


def test_compactness_gives_every_class_the_same_weight() -> None:
    text, images = features(3), features(4, seed=1)
    labels = torch.tensor([0, 0, 0, 2])
    first = (images[:3] - text[0]).square().sum(dim=1).mean()
    last = (images[3] - text[2]).square().sum()
    expected = float((first + last) / 2)  # class 1 is not in the batch
    assert float(compactness_loss(images, text, labels)) == pytest.approx(expected, rel=1e-5)
    per_image = text.expand(4, -1, -1)
    assert float(compactness_loss(images, per_image, labels)) == pytest.approx(expected, rel=1e-5)


def test_staying_is_an_l1_distance() -> None:
    text, frozen = features(3), features(3, seed=2)
    assert float(stay_loss(text, frozen)) == pytest.approx(float((text - frozen).abs().sum() / 3), rel=1e-5)


def test_terms_have_the_published_weights_and_vanish_at_zero() -> None:
    cls = get_regularizer("cpt")
    frozen, text, images = features(4).float(), features(4, seed=3).float(), features(6, seed=4).float()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    setup = CollapseSetup(frozen, torch.bincount(labels), 0)
    context = CollapseContext(text, images, labels, frozen)
    full = cls(cls.Config(), setup).losses(context)
    assert set(full) == {"tetf", "cc", "rs"}
    whole = cls(cls.Config(), setup)
    assert float(full["tetf"]) == pytest.approx(0.25 * float(tetf_loss(text, whole.clusters)), rel=1e-5)
    assert float(full["cc"]) == pytest.approx(0.15 * float(compactness_loss(images, text, labels)), rel=1e-5)
    assert float(full["rs"]) == pytest.approx(0.10 * float(stay_loss(text, frozen)), rel=1e-5)
    for name in ("tetf", "cc", "rs"):
        assert name not in cls(cls.Config(**{f"lambda_{name}": 0.0}), setup).losses(context)
    off = cls(cls.Config(lambda_tetf=0.0, lambda_cc=0.0, lambda_rs=0.0), setup)
    assert not off.active
    assert not off.losses(context)
