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
_OTHER_KINDS = sum(case.name.startswith("no-picture-") for case in pictures.CASES) - len(("SVG", "HTML"))
SENT: Mapping[str, str] = {
    "names": "paths that lead elsewhere, control and bidirectional characters, names that are no UTF-8, none, twice, "
    "or cannot both exist",
    "entries": "links, devices, encryption, other packings, entries in each other's bytes, damage",
    "directories": "cut zips, lying counts, offsets and lengths, zip64 edges, two zips in one, polyglots, files that "
    "are no zip",
    "bombs": "by ratio, by the sum, by lies about sizes, a million entries, zips in zips",
    "tables": "tables of labels in other forms and encodings, without end, naming what is elsewhere; nothing to learn "
    "from",
    "pictures": f"SVG, HTML and {_OTHER_KINDS} other kinds of file, {len(pictures.FORMATS)} formats cut at four "
    "places, damage, headers that promise gigapixels, bombs in profiles and texts, endless animations",
    "forms": "broken, nested and flooded multipart, wrong types, bodies packed once more",
    "models": "exported models with code, pickles, lying headers and hashes, manifests of millions of values",
    "bodies": "JSON that is deep, endless or of half characters; settings that name paths, hubs and modules",
}
"""What each family holds, in the words of the table in docs/reliability.md."""
EVERY: tuple[Case, ...] = tuple(case for cases in FAMILIES.values() for case in cases)
