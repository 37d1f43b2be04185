"""How much memory a step may take, and telling out-of-memory errors from all others."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

GIB = 1024**3

MOST_ON_CPU = 2 * GIB
"""For a step, where nobody says otherwise; the towers and torch itself come on top."""

SHARE_OF_FREE = 0.5
"""Of what is free when a tuning begins; the rest is for what else there is, and for others."""

_CGROUP = Path("/sys/fs/cgroup")


def step_budget(device: torch.device, limit: int = 0) -> int:
    """Return the bytes that a step may keep between its forward and its backward pass.

    Args:
        device: Where it is computed.
        limit: What the operator allows; 0: half of what is free, on the CPU at most `MOST_ON_CPU`.
    """
    if limit:
        return limit
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(SHARE_OF_FREE * (free + cached))
    return min(MOST_ON_CPU, int(SHARE_OF_FREE * free_memory()))


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Return the bytes of main memory this process may still take: the machine's, or the container's if it has less."""
    free = int(psutil.virtual_memory().available)
    try:
        most = int((cgroup / "memory.max").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used = int((cgroup / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # no cgroup of version 2, or one without a limit ("max")
        return free
    return max(0, min(free, most - used))


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
