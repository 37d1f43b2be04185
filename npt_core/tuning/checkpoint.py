"""Checkpoints of a tuning: one safetensors blob with the running stage and the results of finished ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from npt_core.tuning.control import CheckpointStore

FORMAT = "npt-checkpoint-2"
INTERVAL_S = 5.0


@dataclass
class StageState:
    """State of one stage (one run of the trainer): tensors and plain values."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


class Checkpointer:
    """Saves the running stage every few seconds and remembers what finished stages came to.

    Args:
        store: Where the blob is kept; None keeps nothing.
        key: Hash of everything that decides the course of the tuning. A blob with another key is ignored.
        interval_s: Seconds between saves of a running stage.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: CheckpointStore | None,
        key: str,
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.key, self.interval_s, self.clock = store, key, interval_s, clock
        self.finished: dict[str, Any] = {}
        self.resumed = False
        self._stage: str | None = None
        self._state: StageState | None = None
        self._last = clock()
        self._load()

    def _load(self) -> None:
        data = self.store.load() if self.store is not None else None
        if not data:
            return
        try:
            tensors = safetensors.torch.load(data)
            # The metadata lies in the header: 8 bytes of little-endian length, then JSON.
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            meta = json.loads(header["__metadata__"]["state"])
        except (SafetensorError, ValueError, KeyError, TypeError):
            return  # unreadable: start anew rather than fail
        if meta.get("format") != FORMAT or meta.get("key") != self.key:
            return
        self.finished = meta["finished"]
        self._stage = meta["stage"]
        self._state = StageState(tensors, meta["values"])
        self.resumed = True

    def resume(self, stage: str) -> StageState | None:
        """Return the saved state of `stage`, once, or None."""
        if self._stage != stage:
            return None
        state, self._state, self._stage = self._state, None, None
        return state

    @property
    def due(self) -> bool:
        """Whether the interval has passed since the last save."""
        return self.store is not None and self.clock() - self._last >= self.interval_s

    def save(self, stage: str, state: StageState) -> None:
        """Save the running stage now."""
        if self.store is None:
            return
        meta = {
            "format": FORMAT,
            "key": self.key,
            "stage": stage,
            "finished": self.finished,
            "values": state.values,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        self.store.save(safetensors.torch.save(tensors, {"state": json.dumps(meta)}))
        self._last = self.clock()

    def finish(self, stage: str, result: Any) -> None:
        """Remember what a stage came to; its running state is no longer needed."""
        self.finished[stage] = result
        self.save("", StageState())
