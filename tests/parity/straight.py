"""The towers and every method's equations written out straight, one prompt and one picture at a time, in float64.

Only open_clip's own blocks and tokenizer are used: nothing of the project's towers, prompt tables, layers or chunks.
The widths all differ (text 48, image 32, joint 16), and so do the depths (4 and 3), so that no two can be mixed up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from npt_core.clip import ClassPrompt
from npt_core.methods import ImageBatch, get_method
from tests.support.tiny_clip import build, tiny_config

Names = Sequence[Sequence[str]]
PHRASINGS: Names = (("cat",), ("a very large red panda", "firefox"), ("ox",), ("snow leopard",))
LABELS = torch.tensor([2, 0, 1])
START = ["a", "photo", "of", "a"]
TEXT_DEPTH, IMAGE_DEPTH = 4, 3


@cache
def backbone() -> Any:
    from npt_core.clip.backbone import Backbone

    config = tiny_config("clip", width=48, layers=TEXT_DEPTH)
    config["vision_cfg"] = config["vision_cfg"] | {"layers": IMAGE_DEPTH}
    return Backbone.from_model(build(config), config, name="parity", precision="fp64")


def fresh(name: str, phrasings: Names = PHRASINGS, **config: Any) -> Any:
    """A method in float64 as it starts."""
    cls = get_method(name)
    classes = [ClassPrompt(one[0], phrasings=tuple(one)) for one in phrasings]
    return cls(cls.Config(**config), backbone(), classes, generator=torch.Generator().manual_seed(0)).double()


def made(name: str, phrasings: Names = PHRASINGS, **config: Any) -> Any:
    """The same with parameters far from their first values, so that maps that start at zero count."""
    m = fresh(name, phrasings, **config)
    g = torch.Generator().manual_seed(1)
    for p in m.parameters():
        p.data.add_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return m


@cache
def pictures() -> Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.randn(3, 3, *backbone().image_size, generator=g, dtype=torch.float64)


def give(labels: Tensor | None = LABELS) -> ImageBatch:
    """The pictures as a method wants them."""
    patches = torch.stack([patch_features(p) for p in pictures()])
    return ImageBatch(plain(), patches, pictures(), labels)


def scale() -> float:
    return float(backbone().logit_scale)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


# --- the text tower ---------------------------------------------------------------------------------------------------


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


def tokens(text: str) -> Tensor:
    """(l, d_text) embeddings of SOS, the text and EOT."""
    ids = open_clip.tokenize([text], context_length=24)[0]
    rows: Tensor = backbone()._model.token_embedding(ids[: int(ids.argmax()) + 1])
    return rows


def prompt(ctx: Tensor, name: str, position: str = "end", behind: str = "", deep: Sequence[Tensor] = ()) -> Tensor:
    """CoOp's released way: tokenise 'X X X X name.', put ctx in the place of the Xs, then move the name.

    Args:
        ctx: (n, d_text).
        name: Of the class.
        position: Of the name.
        behind: Frozen words between context and name.
        deep: See `encode_text`.
    """
    n = len(ctx)
    rows = tokens(" ".join(["X"] * n + [*behind.split(), f"{name}."]))
    length = len(tokens(name)) - 2
    sos, words, rest = rows[:1], rows[1 + n : 1 + n + length], rows[1 + n + length :]
    if position == "middle":
        order = [sos, ctx[: n // 2], words, ctx[n // 2 :], rest]
    elif position == "front":
        order = [sos, words, ctx, rest]
    else:
        order = [sos, ctx, words, rest]
    return encode_text(torch.cat(order), deep)


def texts(
    ctx: Tensor, position: str = "end", behind: str = "", deep: Sequence[Tensor] = (), phrasings: Names = PHRASINGS
) -> Tensor:
    """(K, d): phrasings encoded apart, averaged, normalised again; `ctx` shared or (K, n, d_text)."""
    rows = []
    for k, some in enumerate(phrasings):
        own = ctx[k] if ctx.ndim == 3 else ctx
        rows.append(unit(torch.stack([prompt(own, p, position, behind, deep) for p in some]).mean(0)))
    return torch.stack(rows)


def hand_written(templates: Sequence[str] = ("a photo of a {}.",), phrasings: Names = PHRASINGS) -> Tensor:
    """(K, d): CLIP's ensemble, every template around every phrasing, averaged and normalised again."""
    rows = [
        unit(torch.stack([encode_text(tokens(t.format(p))) for p in some for t in templates]).mean(0))
        for some in phrasings
    ]
    return torch.stack(rows)


# --- the image tower --------------------------------------------------------------------------------------------------


def encode_image(
    picture: Tensor, layers: Sequence[Tensor] = (), last: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """(3, H, W) -> (d,): `layers[i]` are the learned tokens of block i, later blocks keep those of the block before.

    `last` makes the tokens of the last block, in the place of any others, from class token and patches.
    """
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
        if last is not None and i == IMAGE_DEPTH - 1:
            x = torch.cat([x[:seen], last(x[:seen])])
        x = block(x[None])[0]
    return unit(visual.ln_post(x[0]) @ visual.proj)


def plain() -> Tensor:
    return torch.stack([encode_image(p) for p in pictures()])


def patch_features(picture: Tensor) -> Tensor:
    """(T, d) unit-norm features of the patches."""
    visual = backbone()._model.visual
    patches = visual.conv1(picture[None])[0].flatten(1).t()
    x = visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding)
    for block in visual.transformer.resblocks:
        x = block(x[None])[0]
    return unit(visual.ln_post(x[1:]) @ visual.proj)


# --- layers -----------------------------------------------------------------------------------------------------------


def linear(layer: Any, x: Tensor) -> Tensor:
    y = x @ layer.weight.t()
    return y if layer.bias is None else y + layer.bias


def norm(layer: Any, x: Tensor) -> Tensor:
    middle = x - x.mean(-1, keepdim=True)
    return middle / (middle.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attend(attention: Any, queries: Tensor, context: Tensor) -> Tensor:
    """Multi-head attention, head by head: (n, d_q), (T, d_c) -> (n, d_q)."""
    q, k, v = linear(attention.q, queries), linear(attention.k, context), linear(attention.v, context)
    width = q.shape[1] // attention.heads
    heads = []
    for h in range(attention.heads):
        part = slice(h * width, (h + 1) * width)
        heads.append(torch.softmax(q[:, part] @ k[:, part].t() / math.sqrt(width), dim=1) @ v[:, part])
    return linear(attention.out, torch.cat(heads, dim=1))


# --- the methods: (B, K) logits over the scale ------------------------------------------------------------------------


def zero_shot(m: Any) -> Tensor:
    return plain() @ hand_written(m.config.templates or ("a photo of a {}.",)).t()


def coop(m: Any) -> Tensor:
    return plain() @ texts(m.ctx, m.config.position).t()


def cocoop(m: Any) -> Tensor:
    rows = []
    for x in plain():
        shift = linear(m.meta_net[2], torch.relu(linear(m.meta_net[0], x)))
        rows.append(x @ texts(m.ctx + shift).t())
    return torch.stack(rows)


def apt(m: Any) -> Tensor:
    rows = []
    for x, picture in zip(plain(), pictures(), strict=True):
        rows.append(x @ texts(m.ctx + attend(m.attention, norm(m.norm, m.ctx), patch_features(picture))).t())
    return torch.stack(rows)


def vpt(m: Any) -> Tensor:
    return torch.stack([encode_image(p, list(m.tokens)) for p in pictures()]) @ hand_written().t()


def maple(m: Any) -> Tensor:
    layers = [linear(couple, ctx) for couple, ctx in zip(m.couplings, [m.ctx, *m.deep_ctx], strict=True)]
    x = torch.stack([encode_image(p, layers) for p in pictures()])
    return x @ texts(m.ctx, behind=words_behind(m), deep=list(m.deep_ctx)).t()


def words_behind(m: Any) -> str:
    """MaPLe's released prompts are 'a photo of a name.': the first n words are learned, the rest stands."""
    return " ".join(START[len(m.ctx) :]) if m.config.ctx_init == "auto" else ""


def upt(m: Any) -> Tensor:
    u, n = m.unified, len(m.ctx)
    u1 = attend(m.attention, u, u) + norm(m.norm_in, u)
    u2 = linear(m.ffn[2], F.gelu(linear(m.ffn[0], norm(m.norm_out, u1)))) + norm(m.norm_out, u1)
    layers = [linear(m.to_vision, u2[n:])] * (m.config.prompt_depth or IMAGE_DEPTH)
    x = torch.stack([encode_image(p, layers) for p in pictures()])
    return x @ texts(m.ctx + linear(m.to_text, u2[:n])).t()


def promptsrc(m: Any) -> Tensor:
    x = torch.stack([encode_image(p, list(m.tokens)) for p in pictures()])
    return x @ texts(m.ctx, behind=words_behind(m), deep=list(m.deep_ctx)).t()


def dpt(m: Any) -> Tensor:
    return dpt_with_scores(m)[0]


def candidates(m: Any, picture: Tensor) -> list[int]:
    """The likeliest classes of frozen zero-shot; all, in order, where there are few."""
    many = min(m.config.candidates, len(PHRASINGS))
    if many == len(PHRASINGS):
        return list(range(many))
    return (hand_written() @ encode_image(picture)).argsort(descending=True)[:many].tolist()


def dpt_with_scores(m: Any) -> tuple[Tensor, list[Tensor]]:
    """Cosines, and for each picture the (m, K) scores of its class-aware tokens."""
    text = texts(m.ctx)
    rows, scores = [], []
    for picture in pictures():
        chosen = candidates(m, picture)

        def last(x: Tensor, chosen: list[int] = chosen) -> Tensor:
            queries = linear(m.to_query, text[chosen])
            looked = torch.cat([x.detach(), m.keys])
            q, k = linear(m.attention.q, queries), linear(m.attention.k, looked)
            found = linear(m.attention.v, torch.softmax(q @ k.t() / math.sqrt(q.shape[1]), 1) @ looked)
            scores.append(linear(m.score, norm(m.score_norm, found)))
            return norm(m.norm, found + queries)

        rows.append(encode_image(picture, list(m.tokens), last) @ text.t())
    return torch.stack(rows), scores


STATED: dict[str, Callable[[Any], Tensor]] = {
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


def stated(m: Any) -> Tensor:
    """(B, K) logits of a method, straight."""
    return scale() * STATED[m.name](m)
