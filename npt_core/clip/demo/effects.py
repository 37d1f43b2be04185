"""What happens to a whole batch of masks on the way to pictures: warps, the scanner's grid, textures, colours, wear.

Masks are float tensors (n, 1, H, W), 1 on ink or inside a shape; pictures are (n, 3, H, W) in 0..1. Every function
takes its own `torch.Generator` and changes nothing in place that the caller still holds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from npt_core.clip.demo import vocabulary as v

# The scanner that made the real handwritten digits: bitmaps of 32x32, ink counted in blocks of 4x4, values 0 to 16.
BITMAP, BLOCK = 32, 4


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform random numbers in [low, high)."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def warp(masks: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, stretch, shear and bend smoothly.

    Args:
        masks: (n, 1, H, W).
        strength: (n,) 0 for untouched, 1 for a strong but still readable warp.
        generator: Source of chance.

    Returns:
        (n, 1, H, W).
    """
    n, _, height, width = masks.shape
    s = strength[:, None]
    angle = torch.randn(n, 1, generator=generator) * 0.12 * s
    stretch = torch.exp(torch.randn(n, 2, generator=generator) * 0.10 * s) * (1 + 0.05 * s)
    shear = torch.randn(n, 1, generator=generator) * 0.14 * s
    shift = torch.randn(n, 2, generator=generator) * 0.05 * s
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = torch.stack(
        [
            torch.cat([cos * stretch[:, :1], (shear - sin) * stretch[:, 1:], shift[:, :1]], 1),
            torch.cat([sin * stretch[:, :1], cos * stretch[:, 1:], shift[:, 1:]], 1),
        ],
        1,
    )
    grid = F.affine_grid(rows, [n, 1, height, width], align_corners=False)
    field = torch.randn(n, 2, 4, 4, generator=generator) * (0.055 * strength)[:, None, None, None]
    smooth = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
    return F.grid_sample(masks, grid + smooth.permute(0, 2, 3, 1), align_corners=False)


def change_pen(masks: Tensor, amount: Tensor) -> Tensor:
    """Thicker (amount 0..1) or thinner (amount -1..0) ink; `amount` is (n,)."""
    out = masks.clone()
    for sign in (1.0, -1.0):
        rows = torch.nonzero(amount * sign > 0)[:, 0]
        if len(rows):
            part = masks[rows]
            edge = F.max_pool2d(part * sign, 3, 1, 1) * sign
            out[rows] = part + amount[rows].abs()[:, None, None, None] * (edge - part)
    return out


def scan(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Size-normalise to the frame, make a 32x32 bitmap and count its ink in 4x4 blocks, as the UCI digits were made.

    Returns:
        (n, 1, 8, 8), multiples of 1/16.
    """
    n, _, height, width = masks.shape
    ink = masks[:, 0] > 0.5
    low_y, high_y = _extent(ink.any(2), height)
    low_x, high_x = _extent(ink.any(1), width)
    tall, wide = high_y - low_y, high_x - low_x
    frame = torch.maximum(tall, wide)
    # Narrow digits stay narrow, but not quite as narrow as they were written.
    widen = uniform((n,), 0.0, 0.25, generator)
    frame_x = frame ** (1 - widen) * wide**widen
    frame_x = torch.maximum(frame_x, wide)
    zoom = uniform((n, 2), 0.97, 1.06, generator)
    centre_x, centre_y = (low_x + high_x) / width - 1, (low_y + high_y) / height - 1
    nudge = torch.randn(n, 2, generator=generator) * 0.03
    zero = torch.zeros(n)
    rows = torch.stack(
        [
            torch.stack([frame_x / width * zoom[:, 0], zero, centre_x + nudge[:, 0]], 1),
            torch.stack([zero, frame / height * zoom[:, 1], centre_y + nudge[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(rows, [n, 1, BITMAP, BITMAP], align_corners=False)
    bitmap = F.grid_sample(masks, grid, align_corners=False)
    threshold = uniform((n, 1, 1, 1), 0.3, 0.6, generator)
    return F.avg_pool2d((bitmap > threshold).float(), BLOCK)


def _extent(used: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First used index and one past the last, (n,) each; the whole range where nothing is used."""
    places = torch.arange(size)
    low = torch.where(used, places, size).amin(1)
    high = torch.where(used, places + 1, 0).amax(1)
    empty = high <= low
    return torch.where(empty, 0, low).float(), torch.where(empty, size, high).float()


def enlarge(grids: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Scale small grids up to (n, C, size, size): bicubic mostly, else bilinear or blocks."""
    choice = torch.rand(len(grids), generator=generator)
    out = torch.empty(len(grids), grids.shape[1], size, size)
    for mode, low, high in (("bicubic", -1.0, 0.6), ("bilinear", 0.6, 0.82), ("nearest", 0.82, 2.0)):
        rows = (choice >= low) & (choice < high)
        if rows.any():
            smooth = mode != "nearest"
            extra = {"align_corners": False, "antialias": True} if smooth else {}
            out[rows] = F.interpolate(grids[rows], size=(size, size), mode=mode, **extra)
    return out.clamp(0, 1)


def texture(kinds: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where a textured shape shows its own colour and where its second one.

    Args:
        kinds: (n,) indices of `TEXTURE_NAMES`; negative counts as solid.
        masks: (n, 1, H, W), the whole shape.
        generator: Decides angle, pitch and phase.

    Returns:
        The mask that is left, (n, 1, H, W) (an outline keeps its edge only), and the share of the first colour.
    """
    first = torch.ones_like(masks)
    left = masks
    rows = torch.nonzero(kinds == v.OUTLINED)[:, 0]
    if len(rows):
        part = masks[rows]
        left = masks.clone()
        left[rows] = (part + F.max_pool2d(-part, 7, 1, 3)).clamp(0, 1)
    rows = torch.nonzero((kinds > v.SOLID) & (kinds != v.OUTLINED))[:, 0]
    if len(rows):
        first[rows] = _pattern(kinds[rows], masks.shape[-1], generator)
    return left, first


def _pattern(kinds: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Stripes, dots, chequers and speckles, (n, 1, size, size), 1 where the first colour shows."""
    n = len(kinds)
    line = torch.linspace(0, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    angle = uniform((n, 1, 1), 0, math.pi, generator)
    pitch = uniform((n, 1, 1), 5.0, 9.0, generator)
    phase = uniform((n, 2, 1, 1), 0, 2 * math.pi, generator)
    one = torch.sin(2 * math.pi * pitch * (torch.cos(angle) * x + torch.sin(angle) * y) + phase[:, 0])
    two = torch.sin(2 * math.pi * pitch * (torch.cos(angle) * y - torch.sin(angle) * x) + phase[:, 1])
    speckles = F.interpolate(torch.rand(n, 1, size // 2, size // 2, generator=generator), size=(size, size))[:, 0]
    out = ((one * 6).clamp(-0.5, 0.5) + 0.5) * (kinds == v.STRIPED)[:, None, None]
    for kind, pattern in (
        # Where both waves are high there is a dot: their sum, since their product is a chequerboard.
        (v.DOTTED, ((0.7 - one - two) * 4).clamp(-0.5, 0.5) + 0.5),
        (v.CHECKERED, ((one * two) * 8).clamp(-0.5, 0.5) + 0.5),
        (v.SPECKLED, (speckles > 0.3).float()),
    ):
        out = torch.where((kinds == kind)[:, None, None], pattern, out)
    return out[:, None]


def composite(masks: Tensor, first: Tensor, ink: Tensor, second: Tensor, paper: Tensor) -> Tensor:
    """Paint: `ink` where `first` is 1 and `second` where it is 0, on `paper`; colours (n, 3), paper (n, 3, H, W)."""
    inside = ink[:, :, None, None] * first + second[:, :, None, None] * (1 - first)
    return inside * masks + paper * (1 - masks)


def uneven_paper(paper: Tensor, amount: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Paper (n, 3) with a slow change of colour over the page: (n, 3, size, size); `amount` is (n,)."""
    n = len(paper)
    slow = torch.randn(n, 3, 3, 3, generator=generator) * amount[:, None, None, None]
    slow = F.interpolate(slow, size=(size, size), mode="bilinear", align_corners=True)
    return (paper[:, :, None, None] + slow).clamp(0, 1)


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with `sigma` in pixels."""
    radius = max(1, math.ceil(2.5 * sigma))
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = pictures.shape[1]
    padded = F.pad(pictures, [radius] * 4, mode="replicate")
    flat = F.conv2d(padded, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(flat, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)


def wear(pictures: Tensor, quality: Tensor, touch: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, low resolution, noise, and a change of light.

    Args:
        pictures: (n, 3, H, W) in 0..1.
        quality: (n,) indices of `QUALITY_NAMES`: what is done strongly; negative leaves the picture as it is.
        touch: (n,) bool: whether light and a little noise change too.
        generator: Source of chance.

    Returns:
        New pictures in 0..1.
    """
    out = pictures.clone()
    size = out.shape[-1]
    rows = torch.nonzero(quality == v.BLURRY)[:, 0]
    for part in rows.chunk(2):
        if len(part):
            out[part] = blur(out[part], float(uniform((1,), 1.2, 3.0, generator)))
    rows = torch.nonzero(quality == v.LOW_RESOLUTION)[:, 0]
    for part in rows.chunk(3):
        if len(part):
            small = int(torch.randint(11, 25, (1,), generator=generator))
            low = F.interpolate(out[part], size=(small, small), mode="area")
            out[part] = enlarge(low, size, generator)
    amount = torch.where(quality == v.NOISY, uniform((len(out),), 0.10, 0.22, generator), torch.zeros(len(out)))
    amount = torch.maximum(amount, touch * (uniform((len(out),), -0.06, 0.04, generator)))
    rows = torch.nonzero(amount > 0)[:, 0]
    if len(rows):
        out[rows] += torch.randn(out[rows].shape, generator=generator) * amount[rows, None, None, None]
    contrast = 1 + touch * uniform((len(out),), -0.25, 0.15, generator)
    light = touch * uniform((len(out),), -0.1, 0.1, generator)
    out = (out - 0.5) * contrast[:, None, None, None] + 0.5 + light[:, None, None, None]
    return out.clamp(0, 1)
