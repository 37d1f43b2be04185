"""Moving class means for a learned image path."""

from __future__ import annotations

import torch

from npt_core.collapse import ClassMeans


def test_first_batch_sets_the_mean_later_ones_blend() -> None:
    means = ClassMeans(3, 2, decay=0.75)
    value, seen = means.update(torch.tensor([[2.0, 0], [4, 0], [0, 8]]), torch.tensor([0, 0, 1]))
    assert value.tolist() == [[3, 0], [0, 8], [0, 0]]
    assert seen.tolist() == [True, True, False]
    value, seen = means.update(torch.tensor([[7.0, 4]]), torch.tensor([0]))
    assert value.tolist() == [[0.75 * 3 + 0.25 * 7, 0.25 * 4], [0, 8], [0, 0]]
    assert seen.tolist() == [True, True, False]


def test_gradient_is_that_of_the_batch_mean() -> None:
    means = ClassMeans(2, 2, decay=0.9)
    means.update(torch.ones(2, 2), torch.tensor([0, 1]))
    features = torch.tensor([[2.0, 0], [4, 0]], requires_grad=True)
    value, _ = means.update(features, torch.tensor([0, 0]))
    value[0, 0].backward()
    assert features.grad.tolist() == [[0.5, 0], [0.5, 0]]  # not scaled down by the memory
    assert not means.mean.requires_grad


def test_absent_classes_pass_no_gradient() -> None:
    means = ClassMeans(2, 2, decay=0.9)
    means.update(torch.ones(2, 2), torch.tensor([0, 1]))
    features = torch.ones(1, 2, requires_grad=True)
    value, _ = means.update(features, torch.tensor([0]))
    value[1].sum().backward()
    assert features.grad.abs().max() == 0


def test_state_goes_around() -> None:
    means = ClassMeans(2, 2, decay=0.9)
    means.update(torch.randn(3, 2), torch.tensor([0, 1, 1]))
    other = ClassMeans(2, 2, decay=0.9)
    other.load(means.state())
    assert torch.equal(other.mean, means.mean)
    assert torch.equal(other.seen, means.seen)
