"""What tests/parity/test_methods.py leaves open; tokens from open_clip's own tokenizer, losses in real float64."""

from __future__ import annotations

import math
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tests.parity.test_methods as base
from npt_core.clip import ClassPrompt
from npt_core.methods import ImageBatch, get_method
from tests.parity.test_methods import attend, encode_image, encode_text, pictures, unit

PHRASINGS = (("cat",), ("a very large red panda", "firefox"), ("ox",), ("snow leopard",))
LABELS = torch.tensor([2, 0, 1])
TIGHT = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.float()` widens to what the towers compute in: the equations can then be compared in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def made(name: str, phrasings: Any = PHRASINGS, **config: Any) -> Any:
    cls = get_method(name)
    classes = [ClassPrompt(p[0], phrasings=p) for p in phrasings]
    m = cls(cls.Config(**config), base.backbone(), classes, generator=torch.Generator().manual_seed(0)).double()
    g = torch.Generator().manual_seed(1)
    for p in m.parameters():
        p.data.add_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return m


def coop_prompt(ctx: Tensor, name: str, position: str) -> Tensor:
    """CoOp's released way: tokenise 'X X X X name.', put ctx in the place of the Xs, then move the name."""
    model, n = base.backbone()._model, len(ctx)
    ids = open_clip.tokenize([" ".join(["X"] * n) + f" {name}."], context_length=24)[0]
    rows = model.token_embedding(ids[: int(ids.argmax()) + 1])
    length = int(open_clip.tokenize([name], context_length=24)[0].argmax()) - 1
    sos, words, rest = rows[:1], rows[1 + n : 1 + n + length], rows[1 + n + length :]
    if position == "end":
        order = [sos, ctx, words, rest]
    elif position == "middle":
        order = [sos, ctx[: n // 2], words, ctx[n // 2 :], rest]
    else:
        order = [sos, words, ctx, rest]
    return encode_text(torch.cat(order))


def text_of(m: Any, position: str = "end") -> Tensor:
    rows = []
    for k, phrasings in enumerate(PHRASINGS):
        ctx = m.ctx[k] if m.ctx.ndim == 3 else m.ctx
        rows.append(unit(torch.stack([coop_prompt(ctx, p, position) for p in phrasings]).mean(0)))
    return torch.stack(rows)


def frozen(phrasings: Any = PHRASINGS) -> Tensor:
    rows = []
    for some in phrasings:
        each = []
        for p in some:
            ids = open_clip.tokenize([f"a photo of a {p}."], context_length=24)[0]
            each.append(encode_text(base.backbone()._model.token_embedding(ids[: int(ids.argmax()) + 1])))
        rows.append(unit(torch.stack(each).mean(0)))
    return torch.stack(rows)


def scale() -> float:
    return float(base.backbone()._model.logit_scale.exp())


def plain() -> Tensor:
    return torch.stack([encode_image(p) for p in pictures()])


def give(labels: Tensor | None = LABELS) -> ImageBatch:
    return ImageBatch(plain(), None, pictures(), labels)


def same_gradients(ours: Tensor, theirs: Tensor, m: Any, *, dead: frozenset[str] = frozenset()) -> None:
    """Equal gradients, none of them of nothing but the `dead` ones."""
    a = torch.autograd.grad(ours, list(m.parameters()))
    b = torch.autograd.grad(theirs, list(m.parameters()))
    for (name, _), x, y in zip(m.named_parameters(), a, b, strict=True):
        assert (float(y.norm()) > 1e-8) is (name not in dead), name
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-10 + 1e-6 * float(y.norm()))


def test_logit_scale() -> None:
    assert made("coop").scale == pytest.approx(scale(), rel=1e-7)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("n_ctx", [4, 5])
def test_coop(position: str, own: bool, n_ctx: int) -> None:
    m = made("coop", position=position, class_specific=own, n_ctx=n_ctx)
    if own:
        assert m.ctx.shape[0] == 4
    logits = m(give()).logits
    expected = m.scale * plain() @ text_of(m, position).t()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    same_gradients(F.cross_entropy(logits, LABELS), F.cross_entropy(expected, LABELS), m)


@pytest.mark.parametrize("name", ["vpt", "upt"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_depths(name: str, depth: int) -> None:
    m = made(name, prompt_depth=depth)
    if name == "vpt":
        assert len(m.tokens) == (depth or 2)
        layers, text = list(m.tokens), frozen()
    else:
        u, n = m.unified, len(m.ctx)
        u1 = attend(m.attention, u, u) + m.norm_in(u)
        u2 = m.ffn(m.norm_out(u1)) + m.norm_out(u1)
        layers = [m.to_vision(u2[n:])] * (depth or 2)
        shifted = m.ctx + m.to_text(u2[:n])
        text = torch.stack(
            [unit(torch.stack([coop_prompt(shifted, p, "end") for p in some]).mean(0)) for some in PHRASINGS]
        )
    x = torch.stack([encode_image(p, layers) for p in pictures()])
    torch.testing.assert_close(m(give()).logits, m.scale * x @ text.t(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("pieces", [32, 1])
@pytest.mark.parametrize("candidates", [1, 2, 3, 10])
def test_dpt_candidates_and_second_loss(candidates: int, pieces: int) -> None:
    m = made("dpt", candidates=candidates)
    m.images_at_once = pieces
    text, many = text_of(m), min(candidates, 4)
    rows, second = [], []
    for i, picture in enumerate(pictures()):
        if many == 4:
            chosen = [0, 1, 2, 3]
        else:
            chosen = (frozen() @ encode_image(picture)).argsort(descending=True)[:many].tolist()
            if int(LABELS[i]) not in chosen:
                chosen[-1] = int(LABELS[i])
        kept: list[Tensor] = []

        def last(tokens: Tensor, chosen: list[int] = chosen, kept: list[Tensor] = kept) -> Tensor:
            q = m.to_query(text[chosen])
            kept.append(q + attend(m.attention, m.norm(q), tokens))
            return kept[0]

        rows.append(m.scale * text @ encode_image(picture, list(m.tokens), last))
        scores = m.score(kept[0])[:, 0]
        second.append(torch.logsumexp(scores, 0) - scores[chosen.index(int(LABELS[i]))])
    b = give()
    output = m(b)
    torch.testing.assert_close(output.logits, torch.stack(rows), rtol=0, atol=1e-9)
    ours = m.named_losses(b, output)["class_aware"]
    theirs = 0.3 * torch.stack(second).mean()
    torch.testing.assert_close(ours, theirs, **TIGHT)
    if candidates > 1:  # one candidate: the second loss is 0 and its head gets no gradient
        total, stated = (
            F.cross_entropy(output.logits, LABELS) + ours,
            F.cross_entropy(torch.stack(rows), LABELS) + theirs,
        )
        same_gradients(total, stated, m, dead=frozenset({"score.bias"}))  # softmax does not see a shared bias


def test_kgcoop() -> None:
    m = made("kgcoop")
    loss = 8.0 * torch.stack([(t - f).square().sum() for t, f in zip(text_of(m), frozen(), strict=True)]).mean()
    b = give()
    ours = m.named_losses(b, m(b))["knowledge"]
    torch.testing.assert_close(ours, loss, **TIGHT)
    same_gradients(ours, loss, m)


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 1.0), (2.5, 0.4)])
def test_prograd(temperature: float, share: float) -> None:
    m = made("prograd", temperature=temperature, conflict=share)
    b = give()
    out = m(b)
    teacher = torch.softmax(m.scale * plain() @ frozen().t() / temperature, 1)
    student = torch.softmax(m.scale * plain() @ text_of(m).t() / temperature, 1)
    kl = temperature**2 * (teacher * (teacher / student).log()).sum(1).mean()
    ours = m.named_losses(b, out)["kl"]
    torch.testing.assert_close(ours, kl, rtol=0, atol=1e-9)
    (g,) = torch.autograd.grad(kl, [m.ctx])
    for task in (g.roll(1) - g, g.roll(1) + g):
        dot = float((task * g).sum())
        expected = task - share * dot / float(g.square().sum()) * g if dot < 0 else task
        (found,) = m.combine_gradients({"task": [task], "kl": [g]})
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_promptsrc() -> None:
    m = made("promptsrc", text_weight=2.0, image_weight=3.0, logit_weight=0.7)
    b = give()
    losses = m.named_losses(b, m(b))
    # one phrasing a class for the deep text: NAMES differ from PHRASINGS in class 1 only
    text = torch.stack(
        [unit(torch.stack([base.prompt(m.ctx, p, list(m.deep_ctx)) for p in s]).mean(0)) for s in PHRASINGS]
    )
    x = torch.stack([encode_image(p, list(m.tokens)) for p in pictures()])
    s, t = torch.softmax(m.scale * x @ text.t(), 1), torch.softmax(m.scale * plain() @ frozen().t(), 1)
    stated = {
        "scl_text": 2.0 * (text - frozen()).abs().mean(),
        "scl_image": 3.0 * (x - plain()).abs().mean(),
        "scl_logits": 0.7 * (t * (t / s).log()).mean(),
    }
    assert stated.keys() == losses.keys()
    for name, value in stated.items():
        torch.testing.assert_close(losses[name], value, rtol=0, atol=1e-9)
    same_gradients(sum(losses.values()), sum(stated.values()), m)  # type: ignore[arg-type]


def test_promptsrc_average_is_a_gaussian_over_20_epochs() -> None:
    m = made("promptsrc")
    seen, w = [], [math.exp(-0.5 * (e - 15) ** 2) for e in range(1, 21)]
    for e in range(1, 21):
        for p in m.parameters():
            p.data.add_(0.1 * e)
        seen.append([p.detach().clone() for p in m.parameters()])
        m.on_epoch_end(e, 20)
    m.on_tuning_end(None, LABELS)
    for i, p in enumerate(m.parameters()):
        expected = sum(a * s[i] for a, s in zip(w, seen, strict=True)) / sum(w)
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=3e-4)  # the floor of 1e-6 is the project's


@pytest.mark.parametrize("finetune", [False, True])
def test_tip_adapter(finetune: bool) -> None:
    m = made("tip_adapter", alpha=2.0, beta=3.0, finetune=finetune)
    g = torch.Generator().manual_seed(5)
    f = unit(torch.randn(8, 2, 16, generator=g, dtype=torch.float64))
    y = torch.arange(8) % 4
    m.fit(f, y)
    m.double()
    keys = torch.randn(8, 16, generator=g, dtype=torch.float64)  # as a fine-tuning might leave them
    keys = keys if finetune else unit(f.mean(1))
    m.keys.data = keys.clone()
    used = {"paper": keys, "unit": unit(keys)}
    rows = {}
    for which, ks in used.items():
        logits = m.scale * plain() @ frozen().t()
        for i in range(3):
            for key, label in zip(ks, y.tolist(), strict=True):
                logits[i, label] += 2.0 * torch.exp(-3.0 * (1 - plain()[i] @ key))
        rows[which] = logits
    found = m(give()).logits.detach()
    torch.testing.assert_close(found, rows["unit"], rtol=0, atol=1e-9)
    assert torch.allclose(found, rows["paper"]) is not finetune


def test_tip_adapter_last_class_absent() -> None:
    m = made("tip_adapter", alpha=2.0, beta=3.0)
    m.fit(unit(torch.randn(3, 1, 16, dtype=torch.float64)), LABELS)
    assert m.double()(give()).logits.shape == (3, 4)


@pytest.mark.parametrize("k", [2, 4])
def test_linear_probe(k: int) -> None:
    m = made("linear_probe", PHRASINGS[:k], strength=10.0)
    g = torch.Generator().manual_seed(7)
    f = unit(torch.randn(6 * k, 2, 16, generator=g, dtype=torch.float64))
    y = torch.arange(6 * k) % k
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
    ours = torch.softmax(m.logits(plain(), None), 1)
    torch.testing.assert_close(ours, torch.softmax(plain() @ w.t() + b, 1).detach(), rtol=0, atol=2e-3)
