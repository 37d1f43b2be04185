"""Intervals that need nothing but counts, so that the page has them for reports of any age."""

from __future__ import annotations

import math

Z95 = 1.959963984540054


def wilson_interval(successes: int, total: int, z: float = Z95) -> tuple[float, float] | None:
    """Return the Wilson score interval of a proportion, None without trials.

    Source: Wilson, JASA 1927. Unlike the normal interval it stays in [0, 1] and is honest at 0 and 1.
    """
    if total == 0:
        return None
    share = successes / total
    z2 = z * z / total
    middle = (share + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(share * (1 - share) / total + z2 / (4 * total))
    return (max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))  # rounding must not exclude it


def paired_interval(only_first: int, only_second: int, n: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a difference of two accuracies on the same n images, None without images.

    Args:
        only_first: Images that only the first classifier got right.
        only_second: Images that only the second got right.
        n: All images.

    Source: Bonett and Price, J. Educ. Behav. Stat. 37, 2012: Wald's interval after one image was added to each side,
    which keeps its coverage for few images and few disagreements.
    """
    if n <= 0 or only_first < 0 or only_second < 0 or only_first + only_second > n:
        return None
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    difference = first - second
    half = Z95 * math.sqrt(max(0.0, first + second - difference**2) / (n + 2))
    return max(-1.0, difference - half), min(1.0, difference + half)
