"""Every method's forward against its paper's equations written out straight, in float64, on a tiny CLIP.

The restatements below use open_clip's own modules one prompt and one picture at a time, and nothing of the project's
towers, prompt tables or chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from npt_core.clip import ClassPrompt
from npt_core.methods import ImageBatch, Method, get_method, list_methods
from npt_core.methods.parts.templates import default_templates
from tests.support.tiny_clip import tiny_backbone

NAMES = ("cat", "a very large red panda", "ox", "snow leopard")
EXACT = {"rtol": 0.0, "atol": 1e-9}


@cache
def backbone() -> Any:
    return tiny_backbone("clip", precision="fp64")


def method_of(name: str, **config: Any) -> Any:
    """A method in float64 with parameters far from their first values, so that maps that start at zero count."""
    cls = get_method(name)
    classes = [ClassPrompt(one) for one in NAMES]
    made = cls(cls.Config(**config), backbone(), classes, generator=torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


@cache
def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 3, *backbone().image_size, generator=generator, dtype=torch.float64)


# --- the towers, written out ------------------------------------------------------------------------------------------


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def encode_text(words: Tensor, deep: Sequence[Tensor] = ()) -> Tensor:
    """(l, d_text) embeddings up to EOT -> (d,); `deep[i]` replaces what follows SOS at the input of block i + 1."""
    model = backbone()._model
    length = len(words)
    mask = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)
    x = words + model.positional_embedding[:length]
    for layer, block in enumerate(model.transformer.resblocks):
        if 1 <= layer <= len(deep):
            vectors = deep[layer - 1]
            x = torch.cat([x[:1], vectors, x[1 + len(vectors) :]])
        x = block(x[None], attn_mask=mask)[0]
    return unit(model.ln_final(x[-1]) @ model.text_projection)


def embeddings(text: str) -> Tensor:
    ids = torch.tensor(backbone().tokenizer.encode(text))
    embedded: Tensor = backbone()._model.token_embedding(ids)
    return embedded


def special(which: str) -> Tensor:
    embedded: Tensor = backbone()._model.token_embedding(torch.tensor([getattr(backbone().tokenizer, which)]))
    return embedded


def prompt(ctx: Tensor, name: str, deep: Sequence[Tensor] = ()) -> Tensor:
    """SOS, context, name, full stop, EOT."""
    return encode_text(torch.cat([special("sos_id"), ctx, embeddings(f"{name}."), special("eot_id")]), deep)


def hand_written(name: str) -> Tensor:
    """The average over the templates, one whole text each."""
    rows = [
        encode_text(torch.cat([special("sos_id"), embeddings(template.format(name)), special("eot_id")]))
        for template in default_templates(backbone())
    ]
    return unit(torch.stack(rows).sum(dim=0))


def encode_image(
    picture: Tensor, layers: Sequence[Tensor] = (), last: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """(3, H, W) -> (d,), with fresh tokens in the first `len(layers)` blocks, and more for the last one."""
    visual = backbone()._model.visual
    patches = visual.conv1(picture[None])[0].flatten(1).t()  # (T, d_vision)
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    seen = len(x)
    if layers:
        x = torch.cat([x, layers[0]])
    x = visual.ln_pre(x)
    for i, block in enumerate(visual.transformer.resblocks):
        if 0 < i < len(layers):
            x = torch.cat([x[:seen], layers[i]])
        if last is not None and i == len(visual.transformer.resblocks) - 1:
            x = torch.cat([x, last(x[:seen])])
        x = block(x[None])[0]
    return unit(visual.ln_post(x[0]) @ visual.proj)


def patch_features(picture: Tensor) -> Tensor:
    """(T, d) unit-norm features of the patches."""
    visual = backbone()._model.visual
    patches = visual.conv1(picture[None])[0].flatten(1).t()
    x = visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding)
    for block in visual.transformer.resblocks:
        x = block(x[None])[0]
    return unit(visual.ln_post(x[1:]) @ visual.proj)


def attend(attention: Any, queries: Tensor, context: Tensor) -> Tensor:
    """Multi-head attention, head by head: (n, d_q), (T, d_c) -> (n, d_q)."""
    q, k, v = queries @ attention.q.weight.t(), context @ attention.k.weight.t(), context @ attention.v.weight.t()
    width = q.shape[1] // attention.heads
    heads = []
    for h in range(attention.heads):
        part = slice(h * width, (h + 1) * width)
        heads.append(torch.softmax(q[:, part] @ k[:, part].t() / math.sqrt(width), dim=1) @ v[:, part])
    out: Tensor = torch.cat(heads, dim=1) @ attention.out.weight.t() + attention.out.bias
    return out


# --- the methods, written out: logits of a picture for every class ----------------------------------------------------


def zero_shot(m: Any, picture: Tensor) -> Tensor:
    return torch.stack([encode_image(picture) @ hand_written(name) for name in NAMES])


def coop(m: Any, picture: Tensor) -> Tensor:
    return torch.stack([encode_image(picture) @ prompt(m.ctx, name) for name in NAMES])


def cocoop(m: Any, picture: Tensor) -> Tensor:
    x = encode_image(picture)
    first, _, second = m.meta_net
    shift = second.weight @ torch.relu(first.weight @ x + first.bias) + second.bias
    return torch.stack([x @ prompt(m.ctx + shift, name) for name in NAMES])


def apt(m: Any, picture: Tensor) -> Tensor:
    x = encode_image(picture)
    queries = F.layer_norm(m.ctx, m.ctx.shape[-1:], m.norm.weight, m.norm.bias)
    ctx = m.ctx + attend(m.attention, queries, patch_features(picture))
    return torch.stack([x @ prompt(ctx, name) for name in NAMES])


def vpt(m: Any, picture: Tensor) -> Tensor:
    x = encode_image(picture, list(m.tokens))
    return torch.stack([x @ hand_written(name) for name in NAMES])


def maple(m: Any, picture: Tensor) -> Tensor:
    contexts = [m.ctx, *m.deep_ctx]
    tokens = [ctx @ map_.weight.t() + map_.bias for ctx, map_ in zip(contexts, m.couplings, strict=True)]
    x = encode_image(picture, tokens)
    return torch.stack([x @ prompt(m.ctx, name, list(m.deep_ctx)) for name in NAMES])


def upt(m: Any, picture: Tensor) -> Tensor:
    u = m.unified
    u1 = attend(m.attention, u, u) + F.layer_norm(u, u.shape[-1:], m.norm_in.weight, m.norm_in.bias)
    normed = F.layer_norm(u1, u.shape[-1:], m.norm_out.weight, m.norm_out.bias)
    u2 = F.gelu(normed @ m.ffn[0].weight.t() + m.ffn[0].bias) @ m.ffn[2].weight.t() + m.ffn[2].bias + normed
    n_ctx = len(m.ctx)
    ctx = m.ctx + u2[:n_ctx] @ m.to_text.weight.t() + m.to_text.bias
    tokens = u2[n_ctx:] @ m.to_vision.weight.t() + m.to_vision.bias
    x = encode_image(picture, [tokens])
    return torch.stack([x @ prompt(ctx, name) for name in NAMES])


def dpt(m: Any, picture: Tensor) -> Tensor:
    text = torch.stack([prompt(m.ctx, name) for name in NAMES])

    def last(tokens: Tensor) -> Tensor:
        queries = text @ m.to_query.weight.t() + m.to_query.bias
        normed = F.layer_norm(queries, queries.shape[-1:], m.norm.weight, m.norm.bias)
        return queries + attend(m.attention, normed, tokens)

    return text @ encode_image(picture, list(m.tokens), last)


def promptsrc(m: Any, picture: Tensor) -> Tensor:
    x = encode_image(picture, list(m.tokens))
    return torch.stack([x @ prompt(m.ctx, name, list(m.deep_ctx)) for name in NAMES])


STATED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "apt": apt,
    "cocoop": cocoop,
    "coop": coop,
    "dpt": dpt,
    "kgcoop": coop,
    "maple": maple,
    "prograd": coop,
    "promptsrc": promptsrc,
    "upt": upt,
    "vpt": vpt,
    "zero_shot": zero_shot,
}
HEADS = {"linear_probe", "tip_adapter"}


def batch(labels: Tensor | None = None) -> ImageBatch:
    pixels = pictures()
    encoded = backbone().image.encode_tokens(pixels)
    return ImageBatch(features=encoded.pooled, tokens=encoded.tokens, pixels=pixels, labels=labels)


def stated(name: str, made: Method) -> Tensor:
    return made.scale * torch.stack([STATED[name](made, picture) for picture in pictures()])


def test_every_method_is_stated() -> None:
    assert set(STATED) | HEADS == {info.name for info in list_methods()}


@pytest.mark.parametrize("name", sorted(STATED))
def test_logits(name: str) -> None:
    made = method_of(name)
    torch.testing.assert_close(made(batch()).logits, stated(name, made), **EXACT)


@pytest.mark.parametrize("name", ["apt", "cocoop", "coop", "dpt", "maple", "promptsrc", "upt", "vpt"])
def test_gradients(name: str) -> None:
    made = method_of(name)
    labels = torch.tensor([0, 2, 1])
    quick = torch.autograd.grad(
        F.cross_entropy(made(batch()).logits, labels), list(made.parameters()), allow_unused=True
    )
    slow = torch.autograd.grad(F.cross_entropy(stated(name, made), labels), list(made.parameters()), allow_unused=True)
    moved = 0
    for ours, theirs in zip(quick, slow, strict=True):
        if theirs is None:  # the head of dpt's second loss has no part in the logits
            assert ours is None or not bool(ours.any())
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)
            moved += int(float(theirs.abs().max()) > 1e-8)
    assert moved >= 1


@pytest.mark.parametrize("name", ["cocoop", "apt", "maple", "dpt"])
def test_chunks_change_nothing(name: str) -> None:
    whole, pieces = method_of(name), method_of(name)
    pieces.chunk = 3
    if hasattr(pieces, "images_at_once"):
        pieces.images_at_once = 2
    labels = torch.tensor([0, 2, 1])
    results = []
    for made in (whole, pieces):
        logits = made(batch()).logits
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels), list(made.parameters()), allow_unused=True)
        results.append([logits.detach(), *(g for g in gradients if g is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_the_likeliest_candidates_are_zero_shot_s() -> None:
    made = method_of("dpt", candidates=2)
    plain = torch.stack([zero_shot(None, picture) for picture in pictures()])
    found = made.likeliest(batch())
    assert torch.equal(found, plain.topk(2, dim=1).indices)
    labels = plain.argmin(dim=1)
    assert torch.equal(made.likeliest(batch(labels))[:, -1], labels)  # while tuning, the truth is among them


def test_kgcoop_s_distance() -> None:
    made = method_of("kgcoop", weight=3.0)
    output = made(batch())
    ctx = made.ctx.detach()
    distances = [float((prompt(ctx, name) - hand_written(name)).square().sum()) for name in NAMES]
    found = float(made.named_losses(batch(), output)["knowledge"].detach())
    assert found == pytest.approx(3.0 * sum(distances) / len(NAMES), rel=1e-5)  # losses are float32


def test_prograd_s_direction() -> None:
    made = method_of("prograd")
    output = made(batch())
    kl = 0.0
    for picture in pictures():
        teacher = torch.softmax(made.scale * zero_shot(None, picture), dim=0)
        student = torch.softmax(made.scale * coop(made, picture).detach(), dim=0)
        kl += float((teacher * (teacher / student).log()).sum()) / len(pictures())
    assert float(made.named_losses(batch(), output)["kl"].detach()) == pytest.approx(kl, rel=1e-4)
    task, general = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    (against,) = made.combine_gradients({"task": [task], "kl": [general]})
    assert float(against @ general) == pytest.approx(0.0, abs=1e-6)  # what is left does not unlearn
    (along,) = made.combine_gradients({"task": [task], "kl": [-general]})
    assert torch.equal(along, task)


def test_promptsrc_s_losses_and_average() -> None:
    made = method_of("promptsrc")
    labels = torch.tensor([0, 2, 1])
    losses = made.named_losses(batch(labels), made(batch(labels)))
    text = torch.stack([prompt(made.ctx, name, list(made.deep_ctx)) for name in NAMES]).detach()
    frozen = torch.stack([hand_written(name) for name in NAMES])
    images = torch.stack([encode_image(picture, list(made.tokens)) for picture in pictures()]).detach()
    plain = torch.stack([encode_image(picture) for picture in pictures()])
    assert float(losses["scl_text"].detach()) == pytest.approx(25 * float((text - frozen).abs().mean()), rel=1e-5)
    assert float(losses["scl_image"].detach()) == pytest.approx(10 * float((images - plain).abs().mean()), rel=1e-5)
    teacher, student = (torch.softmax(made.scale * x @ t.t(), dim=1) for x, t in ((plain, frozen), (images, text)))
    kl = float((teacher * (teacher / student).log()).mean())
    assert float(losses["scl_logits"].detach()) == pytest.approx(kl, rel=1e-4)

    seen, weights = [], []
    for epoch in range(1, 5):
        made.ctx.data.add_(1.0)
        seen.append(made.ctx.detach().clone())
        weights.append(math.exp(-0.5 * ((epoch - 3.0) / 0.2) ** 2) + 1e-6)
        made.on_epoch_end(epoch, 4)
    state = {name: value.clone() for name, value in made.training_state().items()}
    again = method_of("promptsrc")
    again.load_training_state(state)
    expected = sum(w * one for w, one in zip(weights, seen, strict=True)) / sum(weights)
    for resumed in (made, again):
        resumed.on_tuning_end(None, labels)
        torch.testing.assert_close(resumed.ctx.detach(), expected)


def cached(made: Method) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    features = F.normalize(torch.randn(12, 2, made.backbone.d, generator=generator), dim=-1)
    labels = torch.arange(12) % 4
    made.fit(features, labels)
    return features, labels


@pytest.mark.parametrize("finetune", [False, True])
def test_tip_adapter_s_vote(finetune: bool) -> None:
    cls = get_method("tip_adapter")
    classes = [ClassPrompt(one) for one in NAMES]
    config = cls.Config(alpha=0.7, beta=2.0, finetune=finetune)
    made = cls(config, backbone(), classes, generator=torch.Generator().manual_seed(0))
    features, labels = cached(made)
    made = made.double()
    keys = unit(features.mean(dim=1)).double()
    x = batch().features
    assert x is not None
    for row, picture in zip(made(batch()).logits, x, strict=True):
        vote = torch.zeros(4, dtype=torch.float64)
        for key, label in zip(keys, labels.tolist(), strict=True):
            vote[label] += torch.exp(-2.0 * (1 - picture @ key))
        plain = torch.stack([picture @ hand_written(name) for name in NAMES])
        torch.testing.assert_close(row.detach(), made.scale * plain + 0.7 * vote, rtol=0, atol=1e-5)  # float32 keys


def test_the_linear_probe_is_a_logistic_regression() -> None:
    cls = get_method("linear_probe")
    classes = [ClassPrompt(one) for one in NAMES]
    made = cls(cls.Config(strength=1.0), backbone(), classes, generator=torch.Generator().manual_seed(0))
    features, labels = cached(made)
    weight = made.weight.double().clone().requires_grad_(True)
    bias = made.bias.double().clone().requires_grad_(True)
    x, y = features.flatten(0, 1).double(), labels.repeat_interleave(2)
    loss = F.cross_entropy(x @ weight.t() + bias, y, reduction="sum") + 0.5 * weight.square().sum()
    slope = torch.autograd.grad(loss, [weight, bias])
    assert all(float(g.abs().max()) < 0.05 for g in slope)  # at the optimum of the penalised likelihood
    row = made(ImageBatch(features=features[:1, 0])).logits[0]
    torch.testing.assert_close(row, features[0, 0] @ made.weight.t() + made.bias)
