"""How slowly a body may arrive, or an answer be taken: there is some patience to use up, and bytes give some back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """The limits.

    Attributes:
        idle_s: Longest silence, and the patience a sender begins with; it never has more.
        bytes_per_s: What a sender may not stay under for long; 0: any byte makes up for any wait within `idle_s`.
    """

    idle_s: float
    bytes_per_s: int


class Patience:
    """What one sender, or reader, has left. Only waiting for it counts, not what is done with its bytes."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.left_s = pace.idle_s

    def arrived(self, nbytes: int, waited_s: float) -> bool:
        """Count some bytes, and the seconds they were waited for; whether the patience and the bytes outlast these."""
        pace = self._pace
        back = nbytes / pace.bytes_per_s if pace.bytes_per_s else pace.idle_s * (nbytes > 0)
        left_s = self.left_s - waited_s
        self.left_s = min(pace.idle_s, max(0.0, left_s) + back)
        return left_s + back > 0

    def over(self) -> str:
        """What to tell a sender that has none left."""
        idle_s, rate = self._pace.idle_s, self._pace.bytes_per_s
        if self.left_s == idle_s:
            return f"Nothing arrived for {idle_s:g} s."
        return (
            f"The request came too slowly: a sender that falls {idle_s:g} s behind {rate:,} bytes a second is ended. "
            "Send it over a faster line, or have the operator lower the limit."
        )
