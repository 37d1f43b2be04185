"""Pretraining: a run that was stopped goes on exactly, and learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from npt_core.clip.demo import pretrain, training
from npt_core.clip.demo.muon import Muon, orthogonalise
from npt_core.errors import ConfigError
from tests.npt_core.clip.demo.test_weights import tiny_config

PLAN = pretrain.Plan(steps=6, batch=12, captions=8, start_pictures=48, warm_up=2)


def test_resume_is_exact(tmp_path: Path) -> None:
    straight = pretrain.Run(PLAN, tiny_config(), families=[])
    losses = [straight.step() for _ in range(4)]
    first = pretrain.Run(PLAN, tiny_config(), families=[])
    again = [first.step() for _ in range(2)]
    first.save(tmp_path / "checkpoint.pt")
    second = pretrain.Run(PLAN, tiny_config(), families=[])
    second.load(tmp_path / "checkpoint.pt")
    again += [second.step() for _ in range(2)]
    assert again == losses
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run = pretrain.Run(PLAN, tiny_config(), families=[])
    run.save(tmp_path / "checkpoint.pt")
    other = pretrain.Run(
        pretrain.Plan(steps=9, batch=12, captions=8, start_pictures=48, warm_up=2), tiny_config(), families=[]
    )
    other.load(tmp_path / "checkpoint.pt")  # only the number of steps differs
    with pytest.raises(ConfigError, match="another run"):
        pretrain.Run(pretrain.Plan(seed=1, batch=12, captions=8, start_pictures=48), tiny_config(), families=[]).load(
            tmp_path / "checkpoint.pt"
        )


def test_only_false_captions_push_pictures_away() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(4, 8, generator=generator), dim=-1) for _ in range(2))
    own = torch.arange(4)
    nothing_false = torch.zeros(4, 4, dtype=torch.bool)
    assert float(training.contrastive_loss(images, texts, own, nothing_false, torch.tensor(10.0))) == pytest.approx(0)
    all_false = ~torch.eye(4, dtype=torch.bool)
    logits = 10 * images @ texts.T
    usual = 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
    torch.testing.assert_close(training.contrastive_loss(images, texts, own, all_false, torch.tensor(10.0)), usual)


def test_learning_rate() -> None:
    rates = [training.learning_rate(step, 100, 1.0, 10, 0.4) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:60] == [1.0] * 50
    assert rates[80] == pytest.approx(0.5)
    assert rates[99] < 0.03
    # Before the decay a longer plan makes no difference.
    assert rates[:60] == [training.learning_rate(step, 1000, 1.0, 10, 0.4) for step in range(60)]


def test_orthogonal_updates() -> None:
    matrices = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.4
    torch.testing.assert_close(orthogonalise(matrices.mT).mT, orthogonalise(matrices))


def test_muon_goes_down() -> None:
    weight = torch.nn.Parameter(torch.zeros(9, 3))
    goal = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    optimiser = Muon([weight], lr=0.05)
    first = float(goal.square().sum())
    for _ in range(40):
        optimiser.zero_grad()
        loss = (weight - goal).square().sum()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.3 * first
    with pytest.raises(ValueError, match="closure"):
        optimiser.step(lambda: None)


def test_first_features_are_centred() -> None:
    run = pretrain.Run(pretrain.Plan(batch=12, captions=8, start_pictures=96), tiny_config(), families=[])
    pictures = pretrain.draw.draw_batch(np.random.default_rng(3), 64, families=[])
    with torch.no_grad():
        features = F.normalize(run.model.visual(training.normalise(pictures.pixels)), dim=-1)
    assert float((features @ features.T).mean()) < 0.3
