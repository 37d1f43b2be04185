"""What the tuning asks of its surroundings: permission to go on, an ear for progress, a place for checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

Phase = Literal["unpacking", "auditing", "encoding", "tuning", "evaluating", "predicting", "saving"]


@runtime_checkable
class Control(Protocol):
    """Asked at every step and inside every encode loop, so it must be cheap."""

    def check(self) -> None:
        """Return to go on.

        Raises:
            StopTuning: The work must stop now: cancelled, lease lost, drained, or out of time.
        """
        ...


class GoOn:
    """A control that never stops anything."""

    def check(self) -> None:
        """Return."""


@dataclass(frozen=True)
class Progress:
    """Where the work stands.

    Attributes:
        phase: What is being done.
        step: Units of work done, over all phases.
        total_steps: Units of work in all; it may change when unreadable images are found.
        loss: Mean training loss of the epoch so far.
        accuracy: Training accuracy of the epoch so far, 0 to 1.
        eta_seconds: Time left, measured; None until every kind of work ahead has been timed.
        epoch: Epochs finished in the current stage.
        geometry: Class geometry, once in a while (at most 50 times a tuning stage); see `collapse.geometry`.
        picture: What that geometry looks like, whenever it is measured; see `collapse.picture`.
        stage: Which tuning this is: "held-out", "fold 2 of 3", "all images".
    """

    phase: Phase
    step: int
    total_steps: int
    loss: float | None = None
    accuracy: float | None = None
    eta_seconds: float | None = None
    epoch: int | None = None
    geometry: dict[str, float | None] | None = None
    picture: dict[str, Any] | None = None
    stage: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dict(vars(self))


ProgressSink = Callable[[Progress], None]


class CheckpointStore(Protocol):
    """Keeps one blob; whoever implements it makes `save` atomic."""

    def load(self) -> bytes | None:
        """Return the last blob, or None."""
        ...

    def save(self, data: bytes) -> None:
        """Keep `data` in place of what was kept before."""
        ...


class MemoryCheckpointStore:
    """A checkpoint store that forgets with the process."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def load(self) -> bytes | None:
        """Return the last blob, or None."""
        return self.data

    def save(self, data: bytes) -> None:
        """Keep `data`."""
        self.data = data
