"""The names in a folder of the store, remembered while nothing in it changes: listing 10,000 takes 10 ms each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from worker.errors import NotFoundError
from worker.store.base import Store

SETTLED_S = 2.0
"""A folder that changed less long ago than this may change again within the same tick of its clock, unseen."""


class Names:
    """Thread-safe; one object a folder and process.

    Args:
        store: Where the folder is.
        prefix: Its key. Only names that come and go in it are seen, not what changes below them.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._lock = threading.Lock()
        self._known: tuple[float, Sequence[str]] | None = None

    def sorted(self) -> Sequence[str]:
        """Every name, sorted; not to be changed."""
        try:
            changed = self._store.changed(self._prefix)
        except NotFoundError:
            return ()
        if changed is None:  # a bucket does not tell: it is asked for the names
            return self._store.names(self._prefix)
        with self._lock:
            if self._known is not None and self._known[0] == changed:
                return self._known[1]
        looked = time.time()
        names = self._store.names(self._prefix)
        if looked - changed > SETTLED_S:  # what comes later gives the folder another time
            with self._lock:
                self._known = (changed, names)
        return names
