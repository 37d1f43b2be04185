"""What every regulariser keeps: float32 whatever autocast says, and eyes for features and labels only."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import npt_core.collapse
from npt_core.collapse import CollapseContext, CollapseSetup, get_regularizer, list_regularizers

REGULARIZERS = [info.name for info in list_regularizers()]
K, D, B = 5, 8, 6
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def draw(*shape: int, seed: int) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def context(*, conditional: bool, seen: Tensor | None = None) -> tuple[CollapseContext, list[Tensor]]:
    text = draw(*((B, K, D) if conditional else (K, D)), seed=1).requires_grad_()
    images = draw(B, D, seed=2).requires_grad_()
    return CollapseContext(text, images, LABELS, draw(K, D, seed=3), seen), [text, images]


def total(name: str, given: CollapseContext) -> Tensor:
    cls = get_regularizer(name)
    terms = cls(cls.Config(), CollapseSetup(draw(K, D, seed=4), torch.bincount(LABELS), 0)).losses(given)
    assert all(term.shape == () and term.dtype == torch.float32 for term in terms.values())
    return sum(terms.values(), torch.zeros(()))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_autocast_changes_nothing(name: str, conditional: bool) -> None:
    given, learned = context(conditional=conditional)
    plain = total(name, given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = total(name, given)
    assert torch.equal(plain, inside)
    if plain.requires_grad:
        ours = torch.autograd.grad(plain, learned, allow_unused=True)
        theirs = torch.autograd.grad(inside, learned, allow_unused=True)
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_features_in_half_precision_give_losses_in_float32(name: str, conditional: bool) -> None:
    given, _ = context(conditional=conditional)
    halved = CollapseContext(given.text_features.bfloat16(), given.image_features.bfloat16(), LABELS, given.class_means)
    assert float(total(name, halved).detach()) == pytest.approx(float(total(name, given).detach()), rel=0.05, abs=1e-6)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_classes_not_seen_so_far_do_no_harm(name: str, conditional: bool) -> None:
    seen = torch.tensor([True, True, True, True, False])
    given, learned = context(conditional=conditional, seen=seen)
    labels = LABELS.clamp_max(3)
    given = CollapseContext(given.text_features, given.image_features, labels, given.class_means * seen[:, None], seen)
    loss = total(name, given)
    assert torch.isfinite(loss)
    if loss.requires_grad:
        loss.backward()
        assert all(one.grad is None or torch.isfinite(one.grad).all() for one in learned)


def test_a_regulariser_sees_features_labels_and_means_never_the_method() -> None:
    assert {one.name for one in fields(CollapseContext)} == {
        "text_features",
        "image_features",
        "labels",
        "class_means",
        "seen",
    }
    assert {one.name for one in fields(CollapseSetup)} == {"frozen_text_features", "num_images", "seed"}
    for path in Path(npt_core.collapse.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith(("npt_core.methods", "npt_core.tuning")) for name in names), path.name
