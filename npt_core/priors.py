"""How often each class occurs where a classifier is used, and what that makes of its probabilities. Needs no torch.

    p'(k) ∝ p(k) · π(k) / π0(k)

with π what the user states and π0 what the scores assume.

Source: Saerens, Latinne, Decaestecker, Neural Computation 2002.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from npt_core.errors import ConfigError, Fault

MAX_FREQUENCY = 1e12
"""Counts of anything stay below it, and their sum is far from overflowing."""
_NAMED = 5


def check_frequencies(stated: Any, labels: Sequence[str], *, what: str = "priors") -> tuple[float, ...]:
    """Return the frequency of each label, summing to 1.

    Args:
        stated: Label to frequency: shares or counts, from 0; 0 says that the class does not occur.
        labels: All of them have to be named, and nothing else.
        what: What the fault is called after.

    Raises:
        ConfigError: Every fault at once: no mapping, labels too many or missing, no frequency, nothing that occurs.
    """
    faults = frequency_faults(stated, labels, what=what)
    if faults:
        listed = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
        raise ConfigError(f"The class frequencies cannot be used: {listed}.", faults)
    total = math.fsum(stated.values())
    return tuple(stated[label] / total for label in labels)


def frequency_faults(stated: Any, labels: Sequence[str] | None = None, *, what: str = "priors") -> list[Fault]:
    """Return what is wrong with stated frequencies; with no labels, everything that can be told without them."""
    if not isinstance(stated, Mapping) or not stated or not all(isinstance(label, str) for label in stated):
        return [Fault(what, 'must be an object of label and frequency, like {"cat": 0.9, "dog": 0.1}')]
    faults = [
        Fault(f"{what}.{label[:100]}", f"is {str(value)[:50]}; a frequency is a number from 0 to {MAX_FREQUENCY:g}")
        for label, value in stated.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_FREQUENCY
    ][:_NAMED]
    if not faults and not any(stated.values()):
        faults.append(Fault(what, "are all 0; at least one class has to occur"))
    if labels is not None:
        known = set(labels)
        strange = [label for label in stated if label not in known]
        missing = [label for label in labels if label not in stated]
        if strange:
            faults.append(Fault(what, f"name {_some(strange)}, which the labels are not: {_some(labels)}"))
        if missing:
            faults.append(Fault(what, f"do not name {_some(missing)}; give 0 for a class that does not occur"))
    return faults


def assumed(own: Mapping[str, float], labels: Sequence[str]) -> tuple[float, ...]:
    """Return the frequencies that scores over `labels` assume, summing to 1.

    Args:
        own: Of the classifier's own labels, where it has learned any; empty: it takes all classes for equally frequent.
        labels: What it classifies among; a name it was not tuned on counts as one of average frequency.
    """
    average = math.fsum(own.values()) / len(own) if own else 1.0
    found = [own.get(label, average) for label in labels]
    total = math.fsum(found)
    return tuple(one / total for one in found)


def log_ratio(stated: Sequence[float], taken: Sequence[float]) -> list[float]:
    """Return what is added to the logits: log(stated / assumed) of each class; -inf where it does not occur."""
    return [math.log(new) - math.log(old) if new > 0 else -math.inf for new, old in zip(stated, taken, strict=True)]


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label[:100]) for label in labels[:_NAMED])
    return f"{shown} and {len(labels) - _NAMED} more" if len(labels) > _NAMED else shown
