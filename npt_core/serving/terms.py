"""On what terms a classifier answers: when it had better not, and how often each class occurs. Needs no torch.

Each can be stated by the request, by the alias that the model was asked for by, and the threshold by the model itself:
in that order, the first that states it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Source = Literal["request", "alias", "model", "default"]


@dataclass(frozen=True)
class Terms:
    """What one of them states; None: nothing.

    Attributes:
        reject_below: The probability under which the best answer counts as none.
        priors: How often each label occurs; empty: the frequencies that the scores assume, whatever others state.
    """

    reject_below: float | None = None
    priors: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Agreed:
    """What counts, and who stated it.

    Attributes:
        reject_below: 0 rejects nothing.
        reject_below_from: `default` where nobody stated any.
        priors: None: the frequencies that the scores assume.
        priors_from: None where there are no priors.
    """

    reject_below: float = 0.0
    reject_below_from: Source = "default"
    priors: Mapping[str, float] | None = None
    priors_from: Literal["request", "alias"] | None = None

    def with_model(self, reject_below: float | None) -> Agreed:
        """Return the terms with the threshold that the model has of its own, which counts where nobody states one."""
        if self.reject_below_from != "default" or reject_below is None:
            return self
        return replace(self, reject_below=reject_below, reject_below_from="model")


def agree(request: Terms, alias: Terms) -> Agreed:
    """Return what counts of what a request and an alias state."""
    stated: tuple[tuple[Literal["request", "alias"], Terms], ...] = (("request", request), ("alias", alias))
    found = Agreed()
    for who, terms in stated:
        if terms.reject_below is not None:
            found = replace(found, reject_below=terms.reject_below, reject_below_from=who)
            break
    for who, terms in stated:
        if terms.priors is not None:
            return replace(found, priors=terms.priors, priors_from=who) if terms.priors else found
    return found
