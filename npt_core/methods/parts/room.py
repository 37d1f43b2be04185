"""How much memory prompts and pictures take between forward and backward pass, and how many of them fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from npt_core.clip.image import ImageTower
    from npt_core.clip.prompts import PromptBatch
    from npt_core.clip.text import TextTower

BESIDE = 1.3
"""What a step takes while it runs, in terms of what it keeps: a layer's outputs and gradients stand beside that."""

_FEW = {"fast": 64, "reference": 4}  # prompts that are tried; of the whole context each may be 30 MiB and more


def kept_bytes(tower: TextTower, batch: PromptBatch) -> int:
    """Encode prompts and count the bytes that autograd keeps of them; the tower's own weights are left out."""
    return _kept(
        lambda: tower.encode_prompts(batch), (weight for block in tower.blocks for weight in block.parameters())
    )


def kept_bytes_of_picture(tower: ImageTower, tokens: int) -> int:
    """Encode a picture with so many learned tokens in every block and count what autograd keeps of it."""
    width, height = tower.image_size[1], tower.image_size[0]
    pixels = torch.zeros(1, 3, height, width, device=tower.device)
    learned = torch.zeros(tokens, int(tower.d_vision or 0), device=tower.device, requires_grad=True)
    return _kept(lambda: tower.encode(pixels, learned), tower.visual.parameters())


def _kept(run: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    frozen = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, Tensor] = {}  # by storage: two views are kept once; the tensors are held so that no address returns

    def note(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in frozen:
            kept[address] = tensor
        return tensor

    def as_it_was(tensor: Any) -> Any:
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, as_it_was):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@dataclass(frozen=True)
class Appetite:
    """What prompts take of memory, about linear in their number.

    Attributes:
        each: Bytes for every prompt.
        shared: Bytes for what they have in common, once.
    """

    each: float
    shared: float

    @classmethod
    def of(cls, tower: TextTower, batch: PromptBatch) -> Appetite:
        """Encode a few prompts of a batch of at least two, the longest, and count."""
        few = min(batch.N, _FEW["reference" if tower.fast_refusal else "fast"])
        longest = batch.eot_index.argsort(descending=True)
        half = few // 2
        less, more = (BESIDE * kept_bytes(tower, _some(batch, longest[:n])) for n in (half, few))
        each = max(1.0, (more - less) / (few - half))
        return cls(each, max(0.0, more - few * each))

    def chunk(self, count: int, budget: int) -> int | None:
        """Return the chunk in which `count` prompts stay within `budget` bytes: equal pieces; None for all at once."""
        room = budget - self.shared
        if count * self.each <= room:
            return None
        most = max(1, int(room / self.each))
        return math.ceil(count / math.ceil(count / most))


def _some(batch: PromptBatch, index: Tensor) -> PromptBatch:
    suffix = batch.suffix.index_select(-3, index.to(batch.suffix.device))
    return replace(batch, suffix=suffix, eot_index=batch.eot_index[index])
