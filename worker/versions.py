"""Version numbers: models of one name are its versions, 1, 2, ... in the order in which they were stored.

A number is a file, `names/<hash of the name>/<number>.<model id>`, written before the model becomes visible and never
removed: a number is not given twice, not even after its model was deleted.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata

from worker.store.base import Store

_CLAIM = re.compile(r"(\d{9})\.(model_[0-9a-z]{26})")


class Versions:
    """Hands out version numbers. Whoever claims holds the store's lock "models"."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def claim(self, name: str, model_id: str) -> int:
        """The number of a model within its name; asking again gives the same one."""
        last = 0
        for number, owner in self._claims(name):
            if owner == model_id:  # whoever claimed it died before the model was moved
                return number
            last = number
        self._store.put(f"{_folder(name)}/{last + 1:09d}.{model_id}", json.dumps({"name": name}).encode())
        return last + 1

    def models(self, name: str) -> list[str]:
        """Every model that ever had the name, newest id first; some may be deleted."""
        return sorted((owner for _, owner in self._claims(name)), reverse=True)

    def _claims(self, name: str) -> list[tuple[int, str]]:
        found = (_CLAIM.fullmatch(entry) for entry in self._store.names(_folder(name)))
        return [(int(match[1]), match[2]) for match in found if match]


def _folder(name: str) -> str:
    composed = unicodedata.normalize("NFC", name)  # a name typed on macOS equals the one typed elsewhere
    return f"names/{hashlib.sha256(composed.encode('utf-8', 'surrogatepass')).hexdigest()}"
