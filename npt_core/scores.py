"""From logits to answers: what every kind of loaded classifier shares once it has scored B images over K labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from npt_core.artefact import MANIFEST_FILE, MAX_CLASSES, calibration_faults, frequencies_fault
from npt_core.calibration import Calibration
from npt_core.errors import ArtefactError, ConfigError, Fault
from npt_core.priors import assumed, check_frequencies, log_ratio

MAX_LABELS = MAX_CLASSES


@dataclass(frozen=True)
class Scores:
    """Answers for B images.

    Attributes:
        labels: The K labels in the order of the columns.
        probabilities: (B, K) float32, rows sum to 1; CPU.
        similarities: (B, K) float32 cosines of image and text; for methods without text, logits over the scale.
        calibrated: A temperature was fitted on held-out images, and all of the labels are ones it was fitted on.
        temperature: What the logits were divided by; 1 where none was fitted.
        priors_applied: The probabilities are those for the class frequencies that were stated.
    """

    labels: tuple[str, ...]
    probabilities: Tensor
    similarities: Tensor
    calibrated: bool = False
    temperature: float = 1.0
    priors_applied: bool = False


@dataclass(frozen=True)
class Manner:
    """How a classifier turns logits into answers, as its manifest says.

    Attributes:
        labels: Its own, in the order of its logits.
        tuned_share: See `npt_core.mixture`.
        calibration: Its temperature.
        frequencies: How often each of its labels occurs in what its logits assume; empty: all the same.
    """

    KEYS: ClassVar[tuple[str, ...]] = ("tuned_share", "calibration", "assumed_frequencies")
    """Of the manifest, that it is read from."""

    labels: tuple[str, ...]
    tuned_share: float
    calibration: Calibration
    frequencies: Mapping[str, float]

    @classmethod
    def of(cls, manifest: Mapping[str, Any], labels: tuple[str, ...]) -> Self:
        """Read it from a manifest.

        Raises:
            ArtefactError: A share, temperature or frequencies that are none.
        """
        share = manifest.get("tuned_share", 1.0)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ArtefactError(f"{MANIFEST_FILE} has a tuned_share of {share!r}; it is a number from 0 to 1.")
        stored, frequencies = manifest.get("calibration"), manifest.get("assumed_frequencies")
        faults = calibration_faults(stored)
        if fault := frequencies_fault(frequencies, len(labels)):
            faults.append(Fault("assumed_frequencies", fault))
        if faults:
            listed = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
            raise ArtefactError(f"{MANIFEST_FILE} cannot be used: {listed}.", faults)
        own = {} if frequencies is None else dict(zip(labels, frequencies, strict=True))
        return cls(labels, float(share), Calibration.from_manifest(stored), own)

    def log_ratio(self, names: Sequence[str], priors: Mapping[str, float] | None) -> list[float] | None:
        """Return what stated frequencies add to the K logits of `names`; None where nothing is stated.

        Raises:
            ConfigError: The frequencies do not fit the names.
        """
        if priors is None:
            return None
        return log_ratio(check_frequencies(priors, names), assumed(self.frequencies, names))

    def scores(
        self, names: tuple[str, ...], logits: Tensor, similarities: Tensor, ratio: Sequence[float] | None
    ) -> Scores:
        """Return the answers for (B, K) logits and similarities over K names.

        The temperature applies whatever the names are: what it was fitted to is how sharp the learned prompt is.
        """
        temperature = self.calibration.temperature
        logits = logits.float() / temperature
        if ratio is not None:
            logits = logits + torch.tensor(ratio, device=logits.device)
        return Scores(
            names,
            torch.softmax(logits, dim=1).cpu(),
            similarities.float().cpu(),
            calibrated=self.calibration.fitted and set(names) <= set(self.labels),
            temperature=temperature,
            priors_applied=ratio is not None,
        )


def chosen(labels: Sequence[str], own: Sequence[str]) -> tuple[tuple[str, ...], list[int] | None]:
    """Return labels that somebody chose among, and their columns among a classifier's own; None: some are new.

    Raises:
        ConfigError: Fewer than two, or one twice, or an empty one.
    """
    key = tuple(labels)
    if not 2 <= len(key) <= MAX_LABELS or len(set(key)) != len(key) or not all(name.strip() for name in key):
        raise ConfigError(
            f"`labels` must be 2 to {MAX_LABELS} different, non-empty names; got {len(key)}, of which "
            f"{len(set(key))} differ."
        )
    columns = {label: number for number, label in enumerate(own)}
    return key, [columns[label] for label in key] if all(label in columns for label in key) else None
