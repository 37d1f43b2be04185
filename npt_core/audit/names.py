"""Class names that a backbone reads badly: broken to pieces, unknown, too long, or too alike in its text space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from npt_core.data.faults import plural
from npt_core.data.findings import MAX_PATHS, Finding, finding
from npt_core.data.labels import ClassInfo
from npt_core.data.names import shown

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone

TEMPLATE = "a photo of a {}."

PIECES, CHARACTERS = 4, 2.0
"""A word is in pieces when it has at least so many tokens, of fewer characters than this on average."""

SURE = 0.9
"""Two names are too alike when a picture that fits one of them perfectly is less likely than this to be told from the
other by zero-shot: sigmoid(logit scale * (1 - cosine)) < 0.9."""

ROWS = 512

_RENAME = "give them names in words, in classes.json or with class_names"


def audit_names(prompts: Mapping[str, ClassInfo], backbone: Backbone) -> list[Finding]:
    """Look at the words of the classes as the tokenizer and the text tower of `backbone` do."""
    usable = {label: info for label, info in prompts.items() if _fits(info, backbone)}
    return [
        *_unusable([label for label in prompts if label not in usable], backbone),
        *_unseen(usable, backbone),
        *_in_pieces(usable, backbone),
        *_alike(usable, backbone),
    ]


def _fits(info: ClassInfo, backbone: Backbone) -> bool:
    special = 1 if backbone.tokenizer.sos_id is None else 2
    for phrasing in info.phrasings:
        if not backbone.tokenizer.encode(phrasing):
            return False
        if len(backbone.tokenizer.encode(TEMPLATE.format(phrasing))) + special > backbone.context_length:
            return False
    return True


def _unusable(labels: Sequence[str], backbone: Backbone) -> Iterator[Finding]:
    if labels:
        yield finding(
            "class-name-unusable",
            "warning",
            f"{plural(len(labels), 'class has', 'classes have')} a name that backbone {backbone.name!r} cannot take: "
            f"nothing of it is left, or it is longer than {backbone.context_length} tokens; {_RENAME}",
            labels,
            count=len(labels),
        )


def _unseen(classes: Mapping[str, ClassInfo], backbone: Backbone) -> Iterator[Finding]:
    strange = {
        label: words
        for label, info in classes.items()
        if (words := [word for phrasing in info.phrasings for word in backbone.unseen_words(phrasing)])
    }
    if strange:
        yield finding(
            "class-name-unseen",
            "warning",
            f"{plural(len(strange), 'class is', 'classes are')} called by words that backbone {backbone.name!r} never "
            f"saw in its training, so its text features start from noise; {_RENAME}, or use another backbone",
            strange,
            count=len(strange),
            items=[{"label": label, "words": words[:MAX_PATHS]} for label, words in list(strange.items())[:MAX_PATHS]],
        )


def _in_pieces(classes: Mapping[str, ClassInfo], backbone: Backbone) -> Iterator[Finding]:
    broken: dict[str, int] = {}
    for label, info in classes.items():
        for word in " ".join(info.phrasings).split():
            tokens = len(backbone.tokenizer.encode(word))
            if tokens >= PIECES and len(word) < CHARACTERS * tokens:
                broken[label] = max(broken.get(label, 0), tokens)
    if broken:
        yield finding(
            "class-name-in-pieces",
            "info",
            f"the tokenizer breaks the {plural(len(broken), 'name', 'names')} of "
            f"{plural(len(broken), 'class', 'classes')} nearly to single characters, which says little to a text "
            f"tower: where they are codes, {_RENAME}",
            broken,
            count=len(broken),
            items=[{"label": label, "tokens": tokens} for label, tokens in list(broken.items())[:MAX_PATHS]],
        )


def class_text_features(classes: Mapping[str, ClassInfo], backbone: Backbone) -> Tensor:
    """Encode the classes of a data set in a plain template, phrasings averaged.

    Returns:
        (K, d) float32 unit norm, on the CPU.
    """
    texts = [TEMPLATE.format(phrasing) for info in classes.values() for phrasing in info.phrasings]
    owner = torch.tensor([number for number, info in enumerate(classes.values()) for _ in info.phrasings])
    features = backbone.encode_texts(texts).cpu()
    total = torch.zeros(len(classes), features.shape[1]).index_add(0, owner, features)
    return torch.nn.functional.normalize(total, dim=1)


def _alike(classes: Mapping[str, ClassInfo], backbone: Backbone) -> Iterator[Finding]:
    if len(classes) < 2:
        return
    labels = list(classes)
    text = class_text_features(classes, backbone)
    least = 1 - math.log(SURE / (1 - SURE)) / backbone.logit_scale
    count, closest = 0, []
    for start in range(0, len(labels), ROWS):
        cosines = text[start : start + ROWS] @ text.t()
        pairs = torch.nonzero(torch.triu(cosines > least, diagonal=start + 1))
        count += len(pairs)
        values = cosines[pairs[:, 0], pairs[:, 1]]
        for position in values.argsort(descending=True)[:MAX_PATHS].tolist():
            row, column = pairs[position].tolist()
            closest.append((float(values[position]), labels[start + row], labels[column]))
    if not count:
        return
    closest.sort(key=lambda pair: -pair[0])
    _, first, second = closest[0]
    yield finding(
        "class-names-alike",
        "warning",
        f"{plural(count, 'pair of names is', 'pairs of names are')} nearly the same to the text tower of backbone "
        f"{backbone.name!r} ({shown(first)} and {shown(second)} most of all), so the text tells these classes apart "
        "badly: say in the names what sets them apart, in classes.json or with class_names",
        dict.fromkeys(label for _, *pair in closest[:MAX_PATHS] for label in pair),
        count=count,
        items=[{"labels": [one, other], "cosine": round(cosine, 4)} for cosine, one, other in closest],
    )
