"""The text side of a training step as a CUDA graph: its hundreds of small kernels are launched once, then replayed.

With a handful of classes a step's kernels are so small that launching them takes longer than they run. On a device
without graphs, and wherever a replay would not be the same computation, the step stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from npt_core.methods.base import Method
from npt_core.tuning.memory import release_cached_memory

MIN_STEPS = 50
"""Capturing runs a step about five times and instantiates two graphs; shorter tunings would not earn it back."""

Grapher = Callable[..., Any]


class _Text(nn.Module):
    """A module whose parameters are all that the text features depend on, as graphs ask for."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self) -> Tensor:
        return self.method.encode_text()


def why_not_graphed(method: Method, steps: int, *, hand_combined: bool) -> str | None:
    """Say why the text side of this tuning is not replayed, or None where it can be.

    Args:
        method: Tuned in place; the graph reads its parameters where they are.
        steps: Planned steps.
        hand_combined: Whether gradients are taken for several losses in turn: a replay has one buffer for them.
    """
    text = method.backbone.text
    if text.device.type != "cuda":
        return "graphs are CUDA's"
    if steps < MIN_STEPS:
        return f"{steps} steps do not earn the capture back"
    if not method.has_text_features or method.text_depends_on_image or type(method).forward is not Method.forward:
        return "its text features are not computed once a step by themselves"
    if hand_combined:
        return "its gradients are taken for each loss apart"
    if method.chunk is not None:
        return "its prompts are computed in chunks"
    if text.fast_refusal is not None:
        return "the reference text path copies from main memory"
    return None


class TextStep:
    """The text features of each step of one tuning.

    Args:
        method: What is tuned.
        steps: Planned steps.
        hand_combined: See `why_not_graphed`.
        grapher: `torch.cuda.make_graphed_callables`, or what stands in for it.

    Attributes:
        refusal: Why steps are not replayed; None while they are, or will be.
    """

    def __init__(self, method: Method, steps: int, *, hand_combined: bool, grapher: Grapher | None = None) -> None:
        self.method, self.grapher = method, grapher or torch.cuda.make_graphed_callables
        self._replay: Callable[[], Tensor] | None = None
        self.refusal = why_not_graphed(method, steps, hand_combined=hand_combined)

    def __call__(self) -> Tensor | None:
        """Return the (K, d) text features, valid until the next call; None where the method computes them itself."""
        if self.refusal is None and self._replay is None:
            self._capture()
        return None if self._replay is None else self._replay()

    def drop(self, refusal: str) -> None:
        """Compute plainly from here on: the towers were exchanged, or memory is short."""
        self.refusal, self._replay = refusal, None

    def _capture(self) -> None:
        try:
            if not self.method.encode_text().requires_grad:  # learned on the image side alone
                self.drop("its text features are fixed")
                return
            self._replay = cast("Callable[[], Tensor]", self.grapher(_Text(self.method), (), allow_unused_input=True))
        except RuntimeError as error:  # out of memory among them: the plain step has its own answer to that
            self.drop(f"it could not be captured: {error}")
            release_cached_memory()
