"""Telling out-of-memory errors from all others: PyTorch raises them as several types."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether `error` means that an allocation failed."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory"))
    )


def release_cached_memory() -> None:
    """Give cached blocks back to the device, so that a smaller try finds room."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
