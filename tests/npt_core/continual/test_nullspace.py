"""Steps that old images hardly see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from npt_core.clip import ClassPrompt
from npt_core.continual import nullspace
from npt_core.continual.nullspace import NullSpace
from npt_core.errors import Drained
from npt_core.methods import ImageBatch, get_method
from npt_core.tuning.control import GoOn

NAMES = ("red", "green", "blue", "yellow")


def method_of(backbone: Any, name: str = "coop") -> Any:
    cls = get_method(name)
    classes = [ClassPrompt(one) for one in NAMES]
    return cls(cls.Config(), backbone, classes, generator=torch.Generator().manual_seed(0))


def features(backbone: Any, n: int, seed: int = 0) -> Tensor:
    """Features that lie in few directions, as those of a few classes do."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(2, backbone.d, generator=generator)
    found = middle[torch.arange(n) % 2] + 0.05 * torch.randn(n, backbone.d, generator=generator)
    return nn.functional.normalize(found, dim=-1)


def centred(method: Any, batch: ImageBatch) -> Tensor:
    logits = method(batch).logits
    return logits - logits.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("name", ["coop", "kgcoop", "cocoop"])
def test_a_projected_step_changes_old_answers_much_less(
    backbone: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nullspace, "ENERGY", 0.9999)
    method, old = method_of(backbone, name), ImageBatch(features=features(backbone, 12))
    parameters = [p for p in method.parameters() if p.requires_grad]
    guard = NullSpace(lambda generator: old, 1.0, 0)
    guard.look(method, parameters, 0, GoOn())
    before, values = centred(method, old).detach(), [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(1)
    moves = [1e-3 * torch.randn(p.shape, generator=generator) for p in parameters]

    def changed(spare: bool) -> tuple[float, float]:
        with torch.no_grad():
            for parameter, value, move in zip(parameters, values, moves, strict=True):
                parameter.copy_(value + move)
        if spare:
            guard.spare(parameters, values)
        length = sum(float((p.detach() - v).square().sum()) for p, v in zip(parameters, values, strict=True)) ** 0.5
        return float((centred(method, old) - before).detach().norm()), length

    (plain, whole), (spared, rest) = changed(False), changed(True)
    assert spared < 0.1 * plain
    assert rest > 0.5 * whole  # it still moves


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 1000))
def test_what_is_left_is_orthogonal_to_what_is_protected(rank: int, strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    guard = NullSpace(lambda _: ImageBatch(), strength, 0)
    basis, _ = torch.linalg.qr(torch.randn(30, rank, generator=generator))
    guard.basis, guard.rank = basis.t().contiguous(), rank
    before = [torch.randn(4, 5, generator=generator), torch.randn(10, generator=generator)]
    move = [torch.randn(one.shape, generator=generator) for one in before]
    parameters = [nn.Parameter(b + m) for b, m in zip(before, move, strict=True)]
    guard.spare(parameters, before)
    done = torch.cat([(p - b).reshape(-1) for p, b in zip(parameters, before, strict=True)]).detach()
    wanted = torch.cat([m.reshape(-1) for m in move])
    torch.testing.assert_close(guard.basis @ done, (1 - strength) * (guard.basis @ wanted), atol=1e-5, rtol=1e-4)
    outside = torch.eye(30) - basis @ basis.t()
    torch.testing.assert_close(outside @ done, outside @ wanted, atol=1e-5, rtol=1e-4)


def test_remembered_directions_stand_for_the_images(backbone: Any) -> None:
    from npt_core.continual.memory import remember

    method, images = method_of(backbone), features(backbone, 40)
    parameters = [method.ctx]
    by_images = NullSpace(lambda _: ImageBatch(features=images), 1.0, 0)
    by_memory = NullSpace(lambda _: ImageBatch(features=remember(images)), 1.0, 0)
    for guard in (by_images, by_memory):
        guard.look(method, parameters, 0, GoOn())
    assert by_images.basis is not None
    assert by_memory.basis is not None
    first = by_images.basis[:3]  # the directions that old images see most
    assert float((first @ by_memory.basis.t()).square().sum()) > 0.9 * len(first)


def test_the_same_look_gives_the_same_basis(backbone: Any) -> None:
    method, old = method_of(backbone), features(backbone, 9)

    def draw(generator: torch.Generator) -> ImageBatch:
        return ImageBatch(features=old[torch.randperm(9, generator=generator)[:4]])

    one, two, other = NullSpace(draw, 1.0, 3), NullSpace(draw, 1.0, 3), NullSpace(draw, 1.0, 4)
    for guard in (one, two, other):
        guard.look(method, [method.ctx], 5, GoOn())
    assert one.basis is not None
    assert torch.equal(one.basis, two.basis)
    assert not torch.equal(one.basis[0], other.basis[0])


def test_what_is_not_finite_protects_nothing(backbone: Any) -> None:
    method = method_of(backbone)
    old = ImageBatch(features=torch.full((3, backbone.d), torch.nan))
    guard = NullSpace(lambda _: old, 1.0, 0)
    guard.look(method, [method.ctx], 0, GoOn())
    assert (guard.basis, guard.rank) == (None, 0)
    guard.spare([method.ctx], [method.ctx.detach().clone()])


def test_a_look_stops_when_it_is_asked_to(backbone: Any) -> None:
    class Stop:
        looks = 0

        def check(self) -> None:
            self.looks += 1
            if self.looks == 5:
                raise Drained("stop")

    method, stop = method_of(backbone), Stop()
    with pytest.raises(Drained):
        NullSpace(lambda _: ImageBatch(features=features(backbone, 4)), 1.0, 0).look(method, [method.ctx], 0, stop)
