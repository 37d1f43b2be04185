"""The frozen image tower: pixels to features, with learned visual tokens where the tower can take them.

`image_fast.py` computes the same features with less work, where that is exact; `ImageTower` picks the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from npt_core.clip.image_fast import LastPrompts, run_blocks, why_not_exact
from npt_core.clip.prompts import PATHS, Path
from npt_core.errors import PromptError, UnsupportedBackboneError


class ImageTokens(NamedTuple):
    """What an image tower says of a picture as a whole, and of each patch."""

    pooled: torch.Tensor  # (B, d) unit norm
    tokens: torch.Tensor  # (B, T, d) unit norm, patches row by row


class ImageTower:
    """The image side of one frozen CLIP.

    Args:
        visual: The `visual` module of an open_clip model.
        name: The backbone's name, for messages.
        dtype: Compute dtype.
    """

    def __init__(self, visual: nn.Module, *, name: str, dtype: torch.dtype) -> None:
        self.visual, self.name, self.dtype = visual, name, dtype
        self.kind = type(visual).__name__
        size = visual.image_size
        height, width = size if isinstance(size, tuple | list) else (size, size)
        self.image_size: tuple[int, int] = (int(height), int(width))  # type: ignore[arg-type]
        self.prompt_refusal = _why_no_prompts(visual)
        self.fast_refusal = why_not_exact(visual)
        self.d_vision: int | None = None
        self.depth: int | None = None
        if isinstance(visual, VisionTransformer):
            self.d_vision, self.depth = int(visual.transformer.width), int(visual.transformer.layers)
        self._anchor = next(visual.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._anchor.device

    def __call__(self, pixels: torch.Tensor, prompts: torch.Tensor | None = None) -> torch.Tensor:
        """See `encode`."""
        return self.encode(pixels, prompts)

    def encode(
        self,
        pixels: torch.Tensor,
        prompts: torch.Tensor | None = None,
        *,
        last: LastPrompts | None = None,
        path: Path = "auto",
    ) -> torch.Tensor:
        """Encode pictures; differentiable in the prompts, never in the weights.

        Args:
            pixels: (B, 3, H, W) preprocessed.
            prompts: Learned visual tokens, behind the patches and without positions: (n, d_vision) at the input
                (shallow), (depth, n, d_vision) fresh ones at the input of each of the first `depth` blocks (deep), or
                (B, depth, n, d_vision) for each picture. Pooling does not see them.
            last: Makes the tokens of the last block, in the place of learned ones, out of what it is about to read:
                given (B, 1 + T, d_vision), the class token and the patches, it returns (B, m, d_vision). DPT's
                class-aware prompts.
            path: `reference` runs open_clip's own blocks on every token; `fast` the exact short cut of
                `image_fast.py`; `auto` the fast one where it is exact for this tower.

        Returns:
            (B, d) float32, unit L2 norm.

        Raises:
            UnsupportedBackboneError: Prompts for a tower that takes none.
            PromptError: Prompts of another shape, or `fast` on a tower for which it is not exact.
        Source: VPT, arXiv 2203.12119; the first layer's tokens pass the input norm, as in MaPLe, arXiv 2210.03117.
        """
        pixels = self._accept(pixels)
        if self._is_fast(path) or prompts is not None or last is not None:
            visual = self._transformer("visual prompts")
            raw = self._pool(visual, self._run(visual, pixels, prompts, last, path, pooled_only=True))
        else:
            raw = self.visual(pixels)
            raw = raw[0] if isinstance(raw, tuple) else raw
        return F.normalize(raw.to(self._wide), dim=-1)

    def _pool(self, visual: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
        pooled, _ = visual._pool(x)
        raw: torch.Tensor = pooled if visual.proj is None else pooled @ visual.proj
        return raw

    def encode_tokens(
        self, pixels: torch.Tensor, prompts: torch.Tensor | None = None, *, path: Path = "auto"
    ) -> ImageTokens:
        """Pooled features and one feature for each patch, in the joint space.

        Args:
            pixels: (B, 3, H, W) preprocessed.
            prompts: As in `encode`.
            path: As in `encode`.

        Raises:
            UnsupportedBackboneError: The tower is no open_clip vision transformer, or pools by attention.
            PromptError: As in `encode`.
        """
        visual = self._transformer("token features")
        x = self._run(visual, self._accept(pixels), prompts, None, path, pooled_only=False)
        pooled, tokens = self._pool(visual, x), visual.ln_post(x[:, 1:])
        if visual.proj is not None:
            tokens = tokens @ visual.proj
        return ImageTokens(F.normalize(pooled.to(self._wide), dim=-1), F.normalize(tokens.to(self._wide), dim=-1))

    @property
    def _wide(self) -> torch.dtype:
        return torch.float64 if self.dtype is torch.float64 else torch.float32

    def _accept(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = self.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, height, width):
            raise PromptError(
                f"Pictures of shape {tuple(pixels.shape)} do not fit backbone {self.name!r}; it takes "
                f"(B, 3, {height}, {width}), as `load_pixels` makes them."
            )
        return pixels.to(self.device, self.dtype)

    def _transformer(self, what: str) -> VisionTransformer:
        if self.prompt_refusal is not None:
            raise UnsupportedBackboneError(
                f"Backbone {self.name!r} gives no {what}: {self.prompt_refusal}. Choose one whose image tower is "
                "open_clip's VisionTransformer, or a method that learns on the text side only."
            )
        return cast("VisionTransformer", self.visual)

    def _is_fast(self, path: Path) -> bool:
        if path not in PATHS:
            raise PromptError(f"Image path {path!r} is unknown; it can be {', '.join(PATHS)}.")
        if path == "fast" and self.fast_refusal is not None:
            raise PromptError(
                f"The fast image path is not exact for backbone {self.name!r}: {self.fast_refusal}. Use `auto`."
            )
        return path != "reference" and self.fast_refusal is None

    def _run(
        self,
        visual: VisionTransformer,
        pixels: torch.Tensor,
        prompts: torch.Tensor | None,
        last: LastPrompts | None,
        path: Path,
        *,
        pooled_only: bool,
    ) -> torch.Tensor:
        """(B, 1 + T, d_vision): output of the last block without the prompts' positions; see `run_blocks`."""
        fast = self._is_fast(path)
        layers = self._layers(prompts, pixels.shape[0]) if prompts is not None else []
        if layers:  # the input norm works on each token alone, so the first layer's prompts may pass it by themselves
            layers[0] = visual.ln_pre(layers[0])
        x: torch.Tensor = visual._embeds(pixels)  # positions added, input norm applied
        if fast:
            return run_blocks(visual, x, layers, last, pooled_only=pooled_only)
        return _run_reference(visual, x, layers, last)

    def _layers(self, prompts: torch.Tensor, b: int) -> list[torch.Tensor]:
        """One (B, n, d_vision) in the compute dtype for each layer that gets fresh prompts."""
        shape = tuple(prompts.shape)
        full = prompts[None] if prompts.ndim == 2 else prompts
        full = full if full.ndim == 4 else full.expand(b, *full.shape) if full.ndim == 3 else full
        good = full.ndim == 4 and full.shape[0] == b and full.shape[-1] == self.d_vision
        if not good or not 1 <= full.shape[1] <= cast("int", self.depth):
            raise PromptError(
                f"Visual prompts of shape {shape} do not fit backbone {self.name!r}; accepted are "
                f"(n, {self.d_vision}), (1 to {self.depth}, n, {self.d_vision}), or (B, 1 to {self.depth}, n, ...)."
            )
        return [layer.to(self.dtype) for layer in full.unbind(1)]


def _run_reference(
    visual: VisionTransformer, x: torch.Tensor, layers: Sequence[torch.Tensor], last: LastPrompts | None
) -> torch.Tensor:
    """Every block on every token, as open_clip computes it; see `run_blocks`."""
    end, blocks = x.shape[1], visual.transformer.resblocks
    for i, block in enumerate(blocks):
        if i < len(layers):
            x = torch.cat([x[:, :end], layers[i]], dim=1)
        if last is not None and i == len(blocks) - 1:
            x = torch.cat([x[:, :end], last(x[:, :end]).to(x.dtype)], dim=1)
        x = block(x)
    return x[:, :end]


def _why_no_prompts(visual: nn.Module) -> str | None:
    if not isinstance(visual, VisionTransformer):
        return f"its image tower is {type(visual).__name__}, whose layers take no extra tokens here"
    if visual.attn_pool is not None:
        return "its image tower pools by attention over all tokens"
    if not getattr(visual.transformer, "batch_first", True):
        return "its image tower does not take (batch, token, width)"
    return None
