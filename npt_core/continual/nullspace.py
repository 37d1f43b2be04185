"""Steps that old images hardly see: updates projected onto the null space of old answers.

Let z(theta) be the centred logits of old images (each image's mean over classes subtracted: a softmax does not see it),
J = dz / dtheta, and V the leading right singular vectors of J. A step delta changes old answers by J delta to first
order.

    delta' = delta - eta V V^T delta

leaves them as they are to first order at eta = 1, up to the directions that V leaves out. J itself is never built: its
row space is sketched by gradients of random combinations of old logits (Halko et al., arXiv 0909.4061), taken anew a
few times a tuning, since J moves with theta.

Source: the idea of "Visual Prompt Tuning in Null Space for Continual Learning", arXiv 2406.05658: the update is
projected onto a null space of old features, relaxed by eta. Ours: there two projections keep the attention of each
block's visual prompts unchanged, layer by layer; here one projection keeps the answers, so that text context, visual
tokens and networks between them are served alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from npt_core.methods.base import ImageBatch, Method
from npt_core.tuning.control import Control

PROBES = 64
"""Random combinations of old logits in one sketch."""

PROBE_IMAGES = 64
"""Old images in one probe."""

PROBE_PICTURES = 8
"""The same where each goes through the image tower: a probe shall cost about what a step does."""

ENERGY = 0.99
"""Share of the sketch's squared singular values that the protected directions carry."""

LOOKS = 4
"""How often old images are looked at, evenly spread over the epochs: what they see moves with what is learned."""

MAX_NUMBERS = 1 << 26
"""Of a basis: 256 MB in float32. Methods with millions of parameters get fewer directions."""

OldBatches = Callable[[torch.Generator], ImageBatch]
"""Draws some old images."""


class NullSpace:
    """Takes out of each update what old images see.

    Args:
        old: Old images to draw from.
        strength: eta, 0 to 1.
        seed: Of the draws and the combinations; with it and the parameters, a resumed tuning gets the same basis.
    """

    def __init__(self, old: OldBatches, strength: float, seed: int) -> None:
        self.old, self.strength, self.seed = old, strength, seed
        self.basis: Tensor | None = None
        self.rank = 0
        self._looked: tuple[int, list[Tensor]] = (0, [])

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Whether to look before an epoch, 0 <= epoch < epochs."""
        return epoch % max(1, epochs // LOOKS) == 0

    def look(self, method: Method, parameters: Sequence[nn.Parameter], epoch: int, control: Control) -> None:
        """Sketch the row space of J where the parameters are now.

        Args:
            method: Answers for old images.
            parameters: What the optimiser moves.
            epoch: Makes the draws of each look its own.
            control: Checked before every probe.
        """
        self._looked = (epoch, [parameter.detach().clone() for parameter in parameters])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        size = sum(parameter.numel() for parameter in parameters)
        probes = max(1, min(PROBES, MAX_NUMBERS // size, size))
        rows = []
        for _ in range(probes):
            control.check()
            rows.append(self._probe(method, parameters, generator))
        sketch = torch.stack(rows)
        if not bool(torch.isfinite(sketch).all()):  # so is the next step, and the trainer knows what to do then
            self.basis, self.rank = None, 0
            return
        # (m, P) with m far below P: the eigenvectors of the small (m, m) matrix are enough.
        values, left = torch.linalg.eigh((sketch @ sketch.t()).double())
        values, left = values.flip(0).clamp_min(0), left.flip(1)
        share = values.cumsum(0) / values.sum().clamp_min(1e-300)
        kept = int((share < ENERGY).sum()) + 1
        kept = min(kept, int((values > values[0] * 1e-10).sum()))
        basis = (left[:, :kept].t().to(sketch.dtype) @ sketch) / values[:kept].sqrt().to(sketch.dtype).unsqueeze(1)
        self.basis, self.rank = basis, kept

    def _probe(self, method: Method, parameters: Sequence[nn.Parameter], generator: torch.Generator) -> Tensor:
        """Return the (P,) gradient of a random combination of the centred logits of some old images."""
        logits = method(self.old(generator)).logits.float()
        signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
        combination = (signs * (logits - logits.mean(dim=1, keepdim=True))).sum()
        taken = torch.autograd.grad(combination, parameters, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1).float()
                for p, g in zip(parameters, taken, strict=True)
            ]
        )

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps: where the parameters were at the last look. The basis is too large."""
        epoch, values = self._looked
        return {"epoch": torch.tensor(epoch), **{str(number): value for number, value in enumerate(values)}}

    def look_again(
        self, method: Method, parameters: Sequence[nn.Parameter], state: Mapping[str, Tensor], control: Control
    ) -> None:
        """See what was last seen: look from where the parameters were then, and put them back."""
        if len(state) <= len(parameters):
            return  # the first look is still to come
        now = [parameter.detach().clone() for parameter in parameters]
        _put(parameters, [state[str(number)] for number in range(len(parameters))])
        self.look(method, parameters, int(state["epoch"]), control)
        _put(parameters, now)

    @torch.no_grad()
    def spare(self, parameters: Sequence[nn.Parameter], before: Sequence[Tensor]) -> None:
        """Take the protected part out of what was just done to the parameters.

        Args:
            parameters: After a step of the optimiser.
            before: Their values before it.
        """
        if self.basis is None or not self.rank or not self.strength:
            return
        moved = torch.cat([(p - b).reshape(-1).float() for p, b in zip(parameters, before, strict=True)])
        seen = self.strength * (self.basis.t() @ (self.basis @ moved))
        for parameter, part in zip(parameters, _pieces(seen, parameters), strict=True):
            parameter.sub_(part.view_as(parameter).to(parameter.dtype))


@torch.no_grad()
def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _pieces(flat: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    return iter(torch.split(flat, [parameter.numel() for parameter in parameters]))
