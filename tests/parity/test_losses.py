"""Each method's own losses and how it joins gradients, against its paper's equations in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from npt_core.collapse import CollapseSetup, get_regularizer
from npt_core.tuning.config import Schedule, TuneConfig
from npt_core.tuning.traindata import TrainData
from npt_core.tuning.trainer import Trainer
from tests.parity.straight import (
    LABELS,
    candidates,
    coop,
    dpt_with_scores,
    encode_image,
    give,
    hand_written,
    made,
    pictures,
    plain,
    scale,
    texts,
)

pytestmark = pytest.mark.usefixtures("wide")
TIGHT = {"rtol": 0.0, "atol": 1e-10}


def same_gradients(ours: Tensor, theirs: Tensor, m: Any) -> None:
    a = torch.autograd.grad(ours, list(m.parameters()))
    b = torch.autograd.grad(theirs, list(m.parameters()))
    for (name, _), x, y in zip(m.named_parameters(), a, b, strict=True):
        assert float(y.norm()) > 1e-8, name
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-10 + 1e-6 * float(y.norm()), msg=name)


def test_kgcoop_is_8_times_the_mean_squared_distance() -> None:
    m = made("kgcoop")
    text, frozen = texts(m.ctx), hand_written()
    loss = 8.0 * torch.stack([(t - f).square().sum() for t, f in zip(text, frozen, strict=True)]).mean()
    ours = m.named_losses(give(), m(give()))["knowledge"]
    torch.testing.assert_close(ours, loss, **TIGHT)
    same_gradients(ours, loss, m)
    # The released code has w (1 - mean cosine): of unit vectors that is half the squared distance.
    torch.testing.assert_close(ours, 16.0 * (1 - (text * frozen).sum(1).mean()), **TIGHT)


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 1.0), (2.5, 0.4)])
def test_prograd_takes_out_what_goes_against_zero_shot(temperature: float, share: float) -> None:
    m = made("prograd", temperature=temperature, conflict=share)
    teacher = torch.softmax(scale() * plain() @ hand_written().t() / temperature, 1)
    student = torch.softmax(scale() * coop(m) / temperature, 1)
    kl = temperature**2 * (teacher * (teacher / student).log()).sum(1).mean()
    ours = m.named_losses(give(), m(give()))["kl"]
    torch.testing.assert_close(ours, kl, rtol=0, atol=1e-9)
    (g,) = torch.autograd.grad(kl, [m.ctx], retain_graph=True)
    # The released code minimises soft cross-entropy in its place: the same gradient, the teacher's entropy is constant.
    soft = -(temperature**2) * (teacher * student.log()).sum(1).mean()
    torch.testing.assert_close(torch.autograd.grad(soft, [m.ctx])[0], g, rtol=1e-9, atol=1e-12)
    for task in (g.roll(1) - g, g.roll(1) + g):
        dot = float((task * g).sum())
        expected = task - share * dot / float(g.square().sum()) * g if dot < 0 else task
        (found,) = m.combine_gradients({"task": [task], "kl": [g]})
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([0, 0, 0]), torch.tensor([3, 1, 1])])
def test_a_step_of_prograd_as_the_trainer_takes_it(labels: Tensor) -> None:
    m = made("prograd")
    cls = get_regularizer("none")
    data = TrainData(labels, 1, plain()[:, None])
    schedule = Schedule.resolve(TuneConfig(method="prograd", epochs=1), 3, 4)
    trainer = Trainer(m, data, cls(cls.Config(), CollapseSetup(hand_written(), torch.ones(4), 0)), schedule)
    given = data.batch(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    trainer.loss.backward(trainer.loss.terms(given, m(given))[0])

    logits = scale() * coop(m)
    (task,) = torch.autograd.grad(F.cross_entropy(logits, labels), [m.ctx], retain_graph=True)
    teacher = torch.softmax(scale() * plain() @ hand_written().t(), 1)
    (general,) = torch.autograd.grad(-(teacher * torch.log_softmax(logits, 1)).sum(1).mean(), [m.ctx])
    dot = (task * general).sum()
    expected = task - dot / general.square().sum() * general if dot < 0 else task
    torch.testing.assert_close(m.ctx.grad, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("at_hand", [True, False])
def test_promptsrc_s_three_losses(at_hand: bool) -> None:
    """Whether the frozen features come with the batch or are encoded in the step."""
    m, batch = made("promptsrc"), give() if at_hand else replace(give(), features=None)
    x = torch.stack([encode_image(p, list(m.tokens)) for p in pictures()])
    text, frozen = texts(m.ctx, deep=list(m.deep_ctx)), hand_written()
    student, teacher = (torch.softmax(scale() * a @ b.t(), 1) for a, b in ((x, text), (plain(), frozen)))
    stated = {
        "scl_text": 25.0 * (text - frozen).abs().sum() / (4 * 16),  # means over classes and dimensions
        "scl_image": 10.0 * (x - plain()).abs().sum() / (3 * 16),
        "scl_logits": (teacher * (teacher / student).log()).sum() / (3 * 4),  # over images and classes, temperature 1
    }
    losses = m.named_losses(batch, m(batch))
    assert stated.keys() == losses.keys()
    for name, value in stated.items():
        torch.testing.assert_close(losses[name], value, rtol=0, atol=1e-9)
    same_gradients(sum(losses.values()), sum(stated.values()), m)  # type: ignore[arg-type]
    other = made("promptsrc", text_weight=2.0, image_weight=3.0, logit_weight=0.7)
    found = other.named_losses(give(), other(give()))
    for name, ratio in (("scl_text", 2 / 25), ("scl_image", 3 / 10), ("scl_logits", 0.7)):
        torch.testing.assert_close(found[name], ratio * losses[name], **TIGHT)


def test_promptsrc_s_average_is_the_papers_over_20_epochs() -> None:
    """Gaussian weights with mean 15 and deviation 1, on all prompts, resumed in the middle or not."""
    m, again = made("promptsrc"), made("promptsrc")
    seen, w = [], [math.exp(-0.5 * (epoch - 15) ** 2) for epoch in range(1, 21)]
    for epoch in range(1, 21):
        for p in m.parameters():
            p.data.add_(0.1 * epoch)
        seen.append([p.detach().clone() for p in m.parameters()])
        m.on_epoch_end(epoch, 20)
        if epoch == 14:
            again.load_training_state({name: value.clone() for name, value in m.training_state().items()})
        elif epoch > 14:
            again.load_state_dict(m.state_dict())
            again.on_epoch_end(epoch, 20)
    for one in (m, again):
        one.on_tuning_end(None, LABELS)
        for i, p in enumerate(one.parameters()):
            expected = sum(a * s[i] for a, s in zip(w, seen, strict=True)) / sum(w)
            torch.testing.assert_close(p.detach(), expected, rtol=0, atol=3e-4)  # the floor of 1e-6 is the project's


def test_promptsrc_without_the_average_ships_the_last_prompts() -> None:
    m = made("promptsrc", aggregate=False)
    m.on_epoch_end(1, 1)
    last = [p.detach().clone() for p in m.parameters()]
    m.on_tuning_end(None, LABELS)
    assert all(torch.equal(p, q) for p, q in zip(m.parameters(), last, strict=True))


@pytest.mark.parametrize("at_hand", [True, False])
@pytest.mark.parametrize("pieces", [32, 2, 1])
@pytest.mark.parametrize("many", [1, 2, 3, 10])
def test_dpt_s_second_loss(many: int, pieces: int, at_hand: bool) -> None:
    """K-way cross-entropy of the token of an image's own class, over the images that have it among their candidates."""
    m = made("dpt", candidates=many)
    m.images_at_once = pieces
    batch = give() if at_hand else replace(give(), features=None)
    cosines, scores = dpt_with_scores(m)
    rows = []
    for picture, label, found in zip(pictures(), LABELS.tolist(), scores, strict=True):
        chosen = candidates(m, picture)
        if label in chosen:
            rows.append(F.cross_entropy(found[chosen.index(label)], torch.tensor(label)))
    output = m(batch)
    ours = m.named_losses(batch, output)["class_aware"]
    if not rows:
        assert float(ours.detach()) == 0.0
        return
    theirs = 0.3 * torch.stack(rows).mean()
    torch.testing.assert_close(ours, theirs, **TIGHT)
    total = F.cross_entropy(output.logits, LABELS) + ours
    same_gradients(total, F.cross_entropy(scale() * cosines, LABELS) + theirs, m)


def test_dpt_with_no_candidate_right_still_has_a_loss() -> None:
    m = made("dpt", candidates=1)
    wrong = (plain() @ hand_written().t()).argmin(dim=1)
    loss = m.named_losses(give(wrong), m(give(wrong)))["class_aware"]
    assert float(loss.detach()) == 0.0
    assert loss.requires_grad
