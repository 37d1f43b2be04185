"""The parts of pretraining that are not the loop: compact vocabulary, network, loss, schedule, zero-shot scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional as F

from npt_core.clip.demo import captions, draw
from npt_core.clip.demo import vocabulary as v
from npt_core.clip.demo.muon import Muon
from npt_core.clip.demo.stem import STEM_KEY, build_demo_model

CONTEXT_LENGTH = 32
# As the CLIP papers do it; the exact numbers do not matter for pictures drawn at random.
MEAN, STD = (0.5, 0.5, 0.5), (0.35, 0.35, 0.35)
MAX_LOGIT_SCALE = 100.0
ZERO_SHOT_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "{}")


def model_config(**vision: Any) -> dict[str, Any]:
    """The open_clip configuration of the demo backbone; keyword arguments change its image tower."""
    return {
        "embed_dim": 192,
        STEM_KEY: [32, 64, 128, 192],
        "vision_cfg": {
            "image_size": draw.SIZE,
            "layers": 4,
            "width": 192,
            "head_width": 32,
            "patch_size": 16,
            "mlp_ratio": 4.0,
        }
        | vision,
        "preprocess": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic"},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 128,
            "heads": 4,
            "layers": 3,
        },
    }


class CompactTokenizer:
    """open_clip's tokenizer over the words that captions can hold: rows of a small table instead of all 49,408.

    The order of the ids is kept, so the end token stays the largest and `argmax` pooling finds it.
    """

    def __init__(self) -> None:
        self._tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
        words = {token for word in captions.all_words() for token in self._tokenizer.encode(word)}
        self.sos, self.eot = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        # Id 0 fills the end of every row, so it belongs to the table although its vector is never read.
        self.ids: tuple[int, ...] = tuple(sorted({0, *words, self.sos, self.eot}))
        self._place = {token: i for i, token in enumerate(self.ids)}
        self._encode = lru_cache(maxsize=100_000)(self._encode_text)

    def _encode_text(self, text: str) -> tuple[int, ...]:
        tokens = [self.sos, *self._tokenizer.encode(text)[: CONTEXT_LENGTH - 2], self.eot]
        return tuple(self._place[token] for token in tokens)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, longest of these texts) places in the compact table."""
        rows = [self._encode(text) for text in texts]
        out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out


def build_model(config: dict[str, Any], vocab_size: int) -> CLIP:
    """The network in training: batch norms in the stem, a token table of `vocab_size` rows."""
    model = build_demo_model(config, normed=True, vocab_size=vocab_size)
    # Centred features (`start_centred`) spread over the whole sphere, so the cosines start with a smaller factor.
    model.logit_scale.data.fill_(math.log(5.0))
    return model


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """Unit features of token rows that may be shorter than the context: what is never read costs nothing."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(-1)]
    return F.normalize(x @ model.text_projection, dim=-1)


def normalise(pixels: Tensor) -> Tensor:
    """Pixels (n, 3, H, W) in 0..1 to what the image tower sees."""
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def contrastive_loss(images: Tensor, texts: Tensor, own: Tensor, false: Tensor, scale: Tensor) -> Tensor:
    """Symmetric contrastive loss in which only captions that are false of a picture push it away.

    Args:
        images: (B, d) unit features.
        texts: (U, d) unit features of the distinct captions.
        own: (B,) which caption was written for each picture.
        false: (B, U) bool, True where the caption contradicts the picture.
        scale: Factor of the cosines.
    """
    logits = scale * images @ texts.T
    rows = torch.arange(len(own))
    own_logit = logits[rows, own]
    to_text = torch.logsumexp(torch.cat([logits.masked_fill(~false, -torch.inf), own_logit[:, None]], 1), 1) - own_logit
    # For the caption of picture p: the other pictures that it contradicts.
    others = logits.T[own].masked_fill(~false.T[own], -torch.inf)
    to_image = torch.logsumexp(torch.cat([others, own_logit[:, None]], 1), 1) - own_logit
    return 0.5 * (to_text.mean() + to_image.mean())


def step_loss(
    model: CLIP,
    tokenizer: CompactTokenizer,
    pictures: draw.Pictures,
    rng: np.random.Generator,
    *,
    n_captions: int,
    long_share: float,
) -> Tensor:
    """Loss of one batch.

    The first `n_captions` pictures (they come in random order) get a caption of their own each and are contrasted with
    these; every picture is also contrasted with one plain caption for each name of its kind. Captions cost as much as
    pictures do, and most of what they say is said by few of them.
    """
    shown = pictures.attributes[:n_captions]
    written = captions.captions_for(shown, rng, long_share)
    unique, first, own = np.unique(np.array(written.texts), return_index=True, return_inverse=True)
    false = ~captions.may_be_true(written.attributes[first], shown)
    names = captions.name_captions(rng)
    features = encode_text(model, tokenizer([*unique.tolist(), *names]))
    images = F.normalize(model.visual(normalise(pictures.pixels)), dim=-1)
    scale = model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
    loss = contrastive_loss(
        images[:n_captions], features[: len(unique)], torch.from_numpy(own), torch.from_numpy(false), scale
    )
    target = torch.from_numpy(pictures.attributes[:, v.NAME])
    kind = torch.from_numpy(pictures.attributes[:, v.KIND])
    ends = torch.tensor([v.FIRST_LETTER, v.FIRST_SHAPE, len(v.NAMES)])
    kind_of_name = torch.bucketize(torch.arange(len(v.NAMES)), ends, right=True)
    logits = (scale * images @ features[len(unique) :].T).masked_fill(kind[:, None] != kind_of_name[None], -torch.inf)
    return loss + F.cross_entropy(logits, target)


def learning_rate(step: int, steps: int, peak: float, warm_up: int, decay_share: float) -> float:
    """Warm-up, constant, linear decay over the last `decay_share` of `steps`.

    Until the decay starts it does not depend on `steps`, so a run can be stopped and continued with other `steps`.
    """
    left = (steps - step) / max(1.0, steps * decay_share)
    return peak * min(1.0, (step + 1) / warm_up, max(left, 0.01))


def optimisers(model: CLIP, weight_decay: float) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the matrices of the blocks; AdamW for all else (tables, projections, vectors), decayed if matrices."""
    hidden, matrices, plain = [], [], []
    for name, parameter in model.named_parameters():
        if "resblocks" in name and parameter.ndim == 2:
            hidden.append(parameter)
        elif parameter.ndim >= 2 and "embedding" not in name:
            matrices.append(parameter)
        else:
            plain.append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return Muon(hidden), torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-8)


@torch.no_grad()
def start_places(model: CLIP) -> None:
    """Start the places of tokens from waves, as large as their contents from the first step on."""
    table = model.visual.positional_embedding
    table[1:] = place_waves(len(table) - 1, table.shape[1]) * 0.7
    model.visual.conv1[-1].weight.mul_(3.0)


@torch.no_grad()
def start_centred(model: CLIP, tokenizer: CompactTokenizer, pictures: draw.Pictures, rng: np.random.Generator) -> None:
    """Move the last norm of both towers and start both projections so that first features are centred and whitened.

    At a random start all pictures have nearly one feature, all captions too, and hundreds of steps pass before the
    contrast between them counts for anything.
    """
    seen: dict[str, Tensor] = {}
    hook = model.visual.ln_post.register_forward_hook(lambda _m, _i, out: seen.update(images=out[:, 0]))
    model.visual(normalise(pictures.pixels))
    hook.remove()
    hook = model.ln_final.register_forward_hook(lambda _m, _i, out: seen.update(texts=out))
    tokens = tokenizer(captions.captions_for(pictures.attributes, rng).texts)
    encode_text(model, tokens)
    hook.remove()
    texts = seen["texts"][torch.arange(len(tokens)), tokens.argmax(-1)]
    for norm, projection, outputs in (
        (model.visual.ln_post, model.visual.proj, seen["images"]),
        (model.ln_final, model.text_projection, texts),
    ):
        norm.bias -= outputs.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(outputs.T))
        values, vectors = values.flip(0), vectors.flip(1)
        n = min(projection.shape)
        mixed = torch.linalg.qr(torch.from_numpy(rng.normal(size=(projection.shape[1],) * 2)).float())[0][:n]
        start = (vectors[:, :n] / (values[:n] + 0.02 * values[0]).sqrt()) @ mixed
        projection.copy_(start * (len(start) ** -0.5) / start.std() * 1.0)


def place_waves(n_patches: int, width: int) -> Tensor:
    """Sines and cosines of row and column, (n_patches, width)."""
    side = math.isqrt(n_patches)
    frequencies = torch.exp(torch.linspace(math.log(math.pi), math.log(0.3), width // 4))
    line = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([line.sin(), line.cos()], 1)
    both = torch.cat([waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)], 2).flatten(0, 1)
    return F.pad(both, (0, width - both.shape[1]))


@dataclass(frozen=True)
class ScoreSet:
    """Pictures (n, 64, 64, 3) uint8 with labels, and the names to choose from."""

    title: str
    images: NDArray[np.uint8]
    labels: Sequence[str]
    names: Sequence[str]


@torch.no_grad()
def zero_shot(
    model: CLIP, tokenizer: CompactTokenizer, data: ScoreSet, templates: Sequence[str] = ZERO_SHOT_TEMPLATES
) -> float:
    """Share of pictures whose nearest name (mean over templates) is right."""
    model.eval()
    texts = [template.format(name) for name in data.names for template in templates]
    features = encode_text(model, tokenizer(texts)).view(len(data.names), len(templates), -1).mean(1)
    right = 0
    answers = np.array([list(data.names).index(label) for label in data.labels])
    for start in range(0, len(answers), 256):
        pixels = torch.from_numpy(data.images[start : start + 256]).permute(0, 3, 1, 2).float() / 255
        images = F.normalize(model.visual(normalise(pixels)), dim=-1)
        right += int(
            ((images @ F.normalize(features, dim=-1).T).argmax(1).numpy() == answers[start : start + 256]).sum()
        )
    model.train()
    return right / len(answers)


def drawn_score_sets(n: int, seed: int) -> list[ScoreSet]:
    """Fresh shapes, printed digits in unseen fonts, stroke digits through the scanner."""
    shapes = draw.draw_shapes(n, [seed, 1])
    digits = draw.draw_digits(n, [seed, 2], fonts="unseen")
    strokes = draw.draw_digits(n, [seed, 3], style="handwritten", scanned=1.0)
    return [
        ScoreSet("shapes", shapes.images, shapes.labels, v.SHAPE_NAMES),
        ScoreSet("unseen fonts", digits.images, digits.labels, v.DIGIT_NAMES),
        ScoreSet("strokes", strokes.images, strokes.labels, v.DIGIT_NAMES),
    ]
