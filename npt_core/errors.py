"""Every error this project raises on purpose.

    NPTError
    ├── ConfigError                  a setting has a value it cannot have
    │   └── IncompatibleError        two settings make no sense together
    ├── DataError                    what the user sent cannot be used
    │   ├── ArchiveError             hostile or unreadable archive
    │   │   ├── ArchiveTooLargeError over a limit of size, count or ratio
    │   │   └── DamagedEntryError    one entry cannot be read (data/archive.py)
    │   ├── BundleError              not an exported classifier, or one that cannot be used
    │   ├── DatasetError             nothing can be learned from what is left
    │   ├── EditError                a data set cannot be changed like this (data/edit.py)
    │   └── ImageError               one picture cannot be read
    ├── BackboneError
    │   ├── UnknownBackboneError     no such name
    │   ├── BackboneUnavailableError weights cannot be had or read
    │   ├── UnsupportedBackboneError a tower that takes no prompts
    │   └── FingerprintMismatchError artefact made with other weights
    ├── PromptError
    │   ├── PromptLengthError        more tokens than the text tower has positions
    │   └── DuplicatePromptError     two classes with the same words
    ├── ArtefactError                a saved classifier cannot be read
    ├── ExportError                  a classifier cannot be written in another form
    │   └── ExtraMissingError        a package is not installed that this needs
    ├── NonFiniteLossError           tuning diverged, even in fp32
    ├── OutOfMemoryError             not enough memory, even at the smallest chunk
    ├── OverloadedError              a bounded queue is full; try again later
    └── StopTuning                   somebody asked the work to stop
        ├── Cancelled                a user cancelled the job
        ├── LeaseLost                another worker owns the job now
        ├── Drained                  this worker is shutting down
        └── DeadlineExceeded         the job took longer than it may

No error knows an HTTP status: the `app` floor maps `code` to one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong, and where: `path` is a file in an archive or a field of a config."""

    path: str
    message: str


class NPTError(Exception):
    """Base of every deliberate error.

    Args:
        message: One sentence: the thing, what was found, what is accepted, what to do.
        faults: Every single fault where there are several.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, faults: Iterable[Fault] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.faults: tuple[Fault, ...] = tuple(faults)


class ConfigError(NPTError):
    """A setting has a value it cannot have."""

    code = "invalid-config"


class IncompatibleError(ConfigError):
    """Two settings, each valid, that make no sense together."""

    code = "incompatible-config"


class DataError(NPTError):
    """What the user sent cannot be used."""

    code = "invalid-data"


class ArchiveError(DataError):
    """The archive is hostile or cannot be read."""

    code = "invalid-archive"


class ArchiveTooLargeError(ArchiveError):
    """The archive is over a limit of size, count or ratio."""

    code = "archive-too-large"


class BundleError(DataError):
    """The file is no exported classifier, or one that cannot be used."""

    code = "invalid-model"


class DatasetError(DataError):
    """What is left of the data set cannot be learned from."""

    code = "unusable-dataset"


class ImageError(DataError):
    """One picture cannot be read."""

    code = "invalid-image"


class BackboneError(NPTError):
    """Something about the frozen CLIP."""

    code = "backbone"


class UnknownBackboneError(BackboneError):
    """No backbone has that name."""

    code = "unknown-backbone"


class BackboneUnavailableError(BackboneError):
    """The weights cannot be had or read."""

    code = "backbone-unavailable"


class UnsupportedBackboneError(BackboneError):
    """The towers cannot take prompts."""

    code = "unsupported-backbone"


class FingerprintMismatchError(BackboneError):
    """The artefact was made with other weights or other preprocessing."""

    code = "fingerprint-mismatch"


class PromptError(NPTError):
    """Something about the prompts of the classes."""

    code = "invalid-prompt"


class PromptLengthError(PromptError):
    """A prompt has more tokens than the text tower has positions."""

    code = "prompt-too-long"


class DuplicatePromptError(PromptError):
    """Two classes are called by the same words, so no text can tell them apart."""

    code = "duplicate-prompt"


class ArtefactError(NPTError):
    """A saved classifier cannot be read."""

    code = "invalid-artefact"


class ExportError(NPTError):
    """A classifier cannot be written in another form."""

    code = "not-exportable"


class ExtraMissingError(ExportError):
    """A package is not installed that this needs."""

    code = "extra-missing"


class NonFiniteLossError(NPTError):
    """The loss became NaN or infinite and stayed so in fp32."""

    code = "non-finite-loss"


class OutOfMemoryError(NPTError):
    """Not enough memory, even at the smallest chunk."""

    code = "out-of-memory"


class OverloadedError(NPTError):
    """A bounded queue is full; the caller may try again after `retry_after_s`."""

    code = "overloaded"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StopTuning(NPTError):  # noqa: N818 - a request, not a fault
    """Somebody asked the work to stop; raised by `Control.check`."""

    code = "stopped"


class Cancelled(StopTuning):
    """A user cancelled the job."""

    code = "cancelled"


class LeaseLost(StopTuning):
    """Another worker owns the job now; this attempt must discard itself."""

    code = "lease-lost"


class Drained(StopTuning):
    """This worker is shutting down; the job goes back to the queue, uncharged."""

    code = "drained"


class DeadlineExceeded(StopTuning):
    """The job took longer than it may."""

    code = "deadline-exceeded"
