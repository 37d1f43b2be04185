"""The whole corpus, family by family."""

from __future__ import annotations

from collections.abc import Mapping

from tests.security.corpus import bodies, bombs, bundles, directories, entries, forms, names, pictures, texts
from tests.security.corpus.case import Case

FAMILIES: Mapping[str, tuple[Case, ...]] = {
    "names": names.CASES,
    "entries": entries.CASES,
    "directories": directories.CASES,
    "bombs": bombs.CASES,
    "tables": texts.CASES,
    "pictures": pictures.CASES,
    "forms": forms.CASES,
    "models": bundles.CASES,
    "bodies": bodies.CASES,
}
EVERY: tuple[Case, ...] = tuple(case for cases in FAMILIES.values() for case in cases)
