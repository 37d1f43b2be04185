"""Every method's logits, and their gradients, against its paper's equations written out in `straight.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from npt_core.methods import list_methods
from tests.parity.straight import (
    IMAGE_DEPTH,
    LABELS,
    STATED,
    TEXT_DEPTH,
    backbone,
    candidates,
    fresh,
    give,
    hand_written,
    made,
    pictures,
    plain,
    scale,
    stated,
    texts,
)

HEADS = {"linear_probe", "tip_adapter"}
"""In test_heads.py."""

ENSEMBLE = ("a photo of a {}.", "{}", "there is a {} in the room.")
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("zero_shot", {}),
    ("zero_shot", {"templates": ENSEMBLE}),
    *(
        ("coop", {"position": position, "class_specific": own, "n_ctx": n_ctx})
        for position in ("end", "middle", "front")
        for own in (False, True)
        for n_ctx in (4, 5)
    ),
    ("kgcoop", {"position": "middle"}),
    ("prograd", {"class_specific": True}),
    ("cocoop", {}),
    ("cocoop", {"reduction": 4, "n_ctx": 3}),
    ("apt", {}),
    ("apt", {"d_head": 16}),
    *(("vpt", {"prompt_depth": depth, "n_tokens": 3}) for depth in (0, 1, 2)),
    *(("upt", {"prompt_depth": depth, "n_tokens": 3}) for depth in (0, 1, 2)),
    *(("maple", {"prompt_depth": depth}) for depth in (1, 2, 9)),
    ("maple", {"n_ctx": 3}),
    ("maple", {"ctx_init": "random"}),
    *(("promptsrc", {"prompt_depth": depth, "n_tokens": 3}) for depth in (1, 2, 9)),
    ("promptsrc", {"n_ctx": 2}),
    *(("dpt", {"prompt_depth": depth, "candidates": many}) for depth in (0, 1) for many in (1, 2, 10)),
]


def label(value: Any) -> str:
    return ",".join(f"{key}={one}" for key, one in value.items()) if isinstance(value, dict) else str(value)


def test_every_method_is_stated() -> None:
    assert set(STATED) | HEADS == {info.name for info in list_methods()}
    assert {name for name, _ in SETTINGS} == set(STATED)


def test_the_logit_scale_is_the_tower_s() -> None:
    assert made("coop").scale == scale() == pytest.approx(float(backbone()._model.logit_scale.exp()), rel=1e-7)


NOT_IN_LOGITS = {"dpt": {"score.weight", "score_norm.weight", "score_norm.bias"}}
"""The head of DPT's second loss, see test_losses.py."""


@pytest.mark.parametrize(("name", "config"), SETTINGS, ids=label)
def test_logits_and_their_gradients(name: str, config: dict[str, Any]) -> None:
    m = made(name, **config)
    logits, straight = m(give()).logits, stated(m)
    torch.testing.assert_close(logits, straight, rtol=0, atol=1e-9)
    named = {which: p for which, p in m.named_parameters() if p.numel()}  # a depth of 1 has no deeper vectors
    if not named:
        return
    parameters = list(named.values())
    ours = torch.autograd.grad(F.cross_entropy(logits, LABELS), parameters, allow_unused=True)
    theirs = torch.autograd.grad(F.cross_entropy(straight, LABELS), parameters, allow_unused=True)
    for which, one, other in zip(named, ours, theirs, strict=True):
        if which in NOT_IN_LOGITS.get(name, set()):
            assert one is None or not bool(one.any())
            continue
        assert one is not None, which
        assert other is not None, which
        assert float(other.norm()) > 1e-8, which  # a gradient of nothing proves nothing
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10 + 1e-6 * float(other.norm()), msg=which)


@pytest.mark.parametrize(
    ("name", "config", "shapes"),
    [
        ("vpt", {"prompt_depth": 0}, {"tokens": (IMAGE_DEPTH, 8, 32)}),
        ("vpt", {"prompt_depth": 1}, {"tokens": (1, 8, 32)}),
        ("maple", {}, {"ctx": (2, 48), "deep_ctx": (IMAGE_DEPTH - 1, 2, 48), "couplings.2.weight": (32, 48)}),
        ("maple", {"prompt_depth": 2}, {"deep_ctx": (1, 2, 48), "couplings.1.weight": (32, 48)}),
        ("promptsrc", {}, {"ctx": (4, 48), "deep_ctx": (TEXT_DEPTH - 1, 4, 48), "tokens": (IMAGE_DEPTH, 4, 32)}),
        ("cocoop", {"reduction": 4}, {"meta_net.0.weight": (4, 16), "meta_net.2.weight": (48, 4)}),
        ("dpt", {}, {"tokens": (IMAGE_DEPTH - 1, 4, 32), "to_query.weight": (32, 16), "score.weight": (4, 32)}),
    ],
    ids=label,
)
def test_what_is_learned_has_the_papers_shapes(name: str, config: dict[str, Any], shapes: dict[str, Any]) -> None:
    found = {which: tuple(parameter.shape) for which, parameter in fresh(name, **config).named_parameters()}
    assert {which: found[which] for which in shapes} == shapes


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("coop", {}),
        ("upt", {}),
        ("apt", {}),
        ("dpt", {}),
        ("maple", {"prompt_depth": 1}),
        ("promptsrc", {"prompt_depth": 1}),
    ],
    ids=label,
)
def test_tuning_starts_from_the_hand_written_prompt(name: str, config: dict[str, Any]) -> None:
    text = fresh(name, **config)(give()).text_features
    torch.testing.assert_close(text, hand_written().expand_as(text), rtol=0, atol=1e-6)  # first values are float32


def test_cocoop_starts_near_it() -> None:
    """Its meta-net starts with PyTorch's usual noise, as the released one does, and shifts the context at once."""
    m = fresh("cocoop")
    for parameter in m.meta_net.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(m(give()).text_features[0], hand_written(), rtol=0, atol=1e-6)


def test_dpt_s_candidates_are_the_likeliest_of_zero_shot() -> None:
    m = made("dpt", candidates=2)
    found = m.likeliest(give()).tolist()
    assert found == [candidates(m, picture) for picture in pictures()]
    labels = (plain() @ hand_written().t()).argmin(dim=1)
    assert m.likeliest(give(labels)).tolist() == found  # the truth is not slipped in while tuning


def test_phrasings_of_a_class_are_averaged() -> None:
    """What every text below rests on, from one phrasing at a time."""
    m = made("coop")
    both = texts(m.ctx)
    parts = texts(m.ctx, phrasings=[("a very large red panda",), ("firefox",)])
    torch.testing.assert_close(both[1], F.normalize(parts.mean(0), dim=0), rtol=0, atol=1e-12)
    torch.testing.assert_close(m.encode_text(), both, rtol=0, atol=1e-9)
