"""Steps of the published methods in their straightforward form, as research code writes them, to hold ours against.

Every prompt goes through the whole text context, every picture through every block at every token, one image's
prompts after the other's where they depend on the image, and what is frozen is computed again in each step where the
released code does so. Only open_clip's blocks and the method's own learned layers are used, none of the project's
towers, prompt tables, caches or chunks. Sources: the papers named in `npt_core/methods/`, and their released code for
what is encoded when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

Last = Callable[[Tensor], Tensor]


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@dataclass
class Straight:
    """One frozen CLIP, the names of K classes, and a batch.

    Attributes:
        model: open_clip's `CLIP`.
        method: The project's method, for its learned parameters and small layers.
        names: (K) words of the classes.
        pixels: (B, 3, H, W).
        labels: (B,).
    """

    model: Any
    method: Any
    names: Sequence[str]
    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """What released code keeps from the start: token embeddings, the fixed features of hand-written prompts."""
        self.scale = float(self.model.logit_scale.exp())
        with torch.no_grad():
            self.fixed_text = unit(
                self.model.encode_text(self.tokens([f"a photo of a {name}." for name in self.names]))
            )
        ctx = getattr(self.method, "ctx", None)
        if ctx is not None:
            start = ["a", "photo", "of", "a"][len(ctx) :] if self.method.keeps_rest else []  # what MaPLe does not learn
            self.ids = self.tokens([" ".join([*["X"] * len(ctx), *start, f"{name}."]) for name in self.names])
            self.words = self.model.token_embedding(self.ids)  # (K, L, d_text)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        length = self.model.positional_embedding.shape[0]
        found: Tensor = open_clip.tokenize(list(texts), context_length=length)
        return found

    def encode_text(self, ctx: Tensor, deep: Sequence[Tensor] = ()) -> Tensor:
        """(n, d_text) context, and that of later blocks -> (K, d)."""
        n, model, k = len(ctx), self.model, len(self.names)
        x = torch.cat([self.words[:, :1], ctx.expand(k, -1, -1), self.words[:, 1 + n :]], dim=1)
        x = x + model.positional_embedding
        for layer, block in enumerate(model.transformer.resblocks):
            if 1 <= layer <= len(deep):
                x = torch.cat([x[:, :1], deep[layer - 1].expand(k, -1, -1), x[:, 1 + n :]], dim=1)
            x = block(x, attn_mask=model.attn_mask)
        x = model.ln_final(x)
        return unit(x[torch.arange(k), self.ids.argmax(dim=-1)] @ model.text_projection)

    def encode_image(self, layers: Sequence[Tensor] = (), last: Last | None = None) -> Tensor:
        """Tokens of the first blocks, each (n, d_vision), and what makes those of the last one -> (B, d)."""
        visual, b = self.model.visual, len(self.pixels)
        patches = visual.conv1(self.pixels).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(b, 1, -1), patches], dim=1) + visual.positional_embedding
        end = x.shape[1]
        if len(layers):
            x = torch.cat([x, layers[0].expand(b, -1, -1)], dim=1)
        x = visual.ln_pre(x)
        blocks = visual.transformer.resblocks
        for i, block in enumerate(blocks):
            if 0 < i < len(layers):
                x = torch.cat([x[:, :end], layers[i].expand(b, -1, -1)], dim=1)
            if last is not None and i == len(blocks) - 1:
                x = torch.cat([x[:, :end], last(x[:, :end])], dim=1)
            x = block(x)
        return unit(visual.ln_post(x[:, 0]) @ visual.proj)

    def frozen_image(self) -> Tensor:
        with torch.no_grad():
            return unit(self.model.encode_image(self.pixels))

    def cross_entropy(self, images: Tensor, text: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * images @ text.t(), self.labels)

    # --- losses of one step -------------------------------------------------------------------------------------------

    def coop(self) -> Tensor:
        return self.cross_entropy(self.frozen_image(), self.encode_text(self.method.ctx))

    def cocoop(self) -> Tensor:
        return self._each_image(self.method.ctx + self.method.meta_net(images := self.frozen_image())[:, None], images)

    def _each_image(self, contexts: Tensor, images: Tensor) -> Tensor:
        rows = [self.scale * image @ self.encode_text(ctx).t() for ctx, image in zip(contexts, images, strict=True)]
        return F.cross_entropy(torch.stack(rows), self.labels)

    def apt(self) -> Tensor:
        m, visual, b = self.method, self.model.visual, len(self.pixels)
        with torch.no_grad():
            x = visual.transformer(visual._embeds(self.pixels))
            images = unit(visual.ln_post(x[:, 0]) @ visual.proj)
            patches = unit(visual.ln_post(x[:, 1:]) @ visual.proj)
        return self._each_image(m.ctx + m.attention(m.norm(m.ctx).expand(b, -1, -1), patches), images)

    def vpt(self) -> Tensor:
        return self.cross_entropy(self.encode_image(self.method.tokens), self.fixed_text)

    def maple(self) -> Tensor:
        m = self.method
        layers = [couple(ctx) for couple, ctx in zip(m.couplings, [m.ctx, *m.deep_ctx], strict=True)]
        return self.cross_entropy(self.encode_image(layers), self.encode_text(m.ctx, list(m.deep_ctx)))

    def upt(self) -> Tensor:
        text, vision = self.method.prompts()
        layers = [vision] * self.method.prompt_depth(self.method.config.prompt_depth)
        return self.cross_entropy(self.encode_image(layers), self.encode_text(text))

    def promptsrc(self) -> Tensor:
        m, c = self.method, self.method.config
        images, text = self.encode_image(m.tokens), self.encode_text(m.ctx, list(m.deep_ctx))
        frozen = self.frozen_image()
        teacher = F.log_softmax(self.scale * frozen @ self.fixed_text.t(), dim=1)
        student = F.log_softmax(self.scale * images @ text.t(), dim=1)
        kl = F.kl_div(student, teacher, reduction="sum", log_target=True) / student.numel()
        loss = self.cross_entropy(images, text) + c.text_weight * F.l1_loss(text, self.fixed_text)
        return loss + c.image_weight * F.l1_loss(images, frozen) + c.logit_weight * kl

    def dpt(self) -> Tensor:
        m, c, b = self.method, self.method.config, len(self.pixels)
        text = self.encode_text(m.ctx)
        chosen = (self.frozen_image() @ self.fixed_text.t()).topk(min(c.candidates, len(self.names)), dim=1).indices
        heads: list[Tensor] = []

        def last(x: Tensor) -> Tensor:
            queries = m.to_query(text[chosen])  # (B, m, d_vision)
            looked = torch.cat([x.detach(), m.keys.expand(b, -1, -1)], dim=1)
            scores = m.attention.q(queries) @ m.attention.k(looked).transpose(1, 2)
            seen = m.attention.v(torch.softmax(scores / math.sqrt(m.attention.q.out_features), dim=-1) @ looked)
            heads.append(m.score(m.score_norm(seen)))  # (B, m, K)
            return m.norm(queries + seen)  # type: ignore[no-any-return]

        loss = self.cross_entropy(self.encode_image(m.tokens, last), text)
        own = chosen == self.labels[:, None]
        found = F.cross_entropy(heads[0][own], self.labels[own.any(dim=1)]) if bool(own.any()) else 0.0
        return loss + c.class_aware_weight * found

    def loss(self) -> Tensor:
        found: Tensor = getattr(self, self.method.name)()
        return found
