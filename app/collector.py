"""Python's cyclic garbage collector, kept away from what never becomes garbage.

Importing torch makes some 400,000 objects that stay as long as the process. Looking through them again takes a quarter
to half a second, every time enough new objects have come together, and all requests wait meanwhile.
"""

from __future__ import annotations

import gc
from functools import cache


def leave_what_is_here() -> None:
    """Look once more for garbage, and never again at what is left. Call it where nothing large is in memory yet."""
    gc.collect()
    gc.freeze()


@cache
def leave_torch() -> None:
    """The same, once a process, after the towers' packages were imported and before the first tower is loaded."""
    leave_what_is_here()
