"""What the worker floor raises on purpose, under `npt_core.errors.NPTError`.

NPTError
└── WorkerError
    ├── NotFoundError              no job, data set, model or stored object of that id
    ├── GoneError                  it was there, and was removed
    ├── ConflictError              the thing is in a state, or a use, that forbids this
    │   ├── IdempotencyInFlight    the same key is being worked on right now
    │   └── JobFinishedError       a terminal job cannot change any more
    ├── IdempotencyMismatch        the same key came with another request
    ├── FeedbackError              labels that cannot be kept
    ├── StoreFullError             not enough room on the data volume
    ├── CorruptRecordError         a stored record cannot be read
    └── BrokerUnavailableError     Redis does not answer
"""

from __future__ import annotations

from npt_core.errors import NPTError


class WorkerError(NPTError):
    """Base of the worker floor's errors."""

    code = "worker"


class NotFoundError(WorkerError):
    """No such thing."""

    code = "not-found"


class GoneError(WorkerError):
    """It was there, and was removed."""

    code = "gone"


class ConflictError(WorkerError):
    """The thing is in a state, or a use, that forbids this."""

    code = "conflict"


class IdempotencyInFlight(ConflictError):  # noqa: N818
    """The same idempotency key is being worked on right now."""

    code = "idempotency-in-flight"


class JobFinishedError(ConflictError):
    """A terminal job cannot change any more."""

    code = "job-finished"


class IdempotencyMismatch(WorkerError):  # noqa: N818
    """The same idempotency key came with another request."""

    code = "idempotency-mismatch"


class FeedbackError(WorkerError):
    """Labels that cannot be kept."""

    code = "invalid-feedback"


class StoreFullError(WorkerError):
    """Not enough room on the data volume."""

    code = "store-full"


class CorruptRecordError(WorkerError):
    """A stored record cannot be read."""

    code = "corrupt-record"


class BrokerUnavailableError(WorkerError):
    """Redis does not answer."""

    code = "broker-unavailable"
