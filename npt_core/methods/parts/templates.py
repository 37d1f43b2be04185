"""Hand-written prompts: what zero-shot reads, and what several methods start from or are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from npt_core.errors import Fault, PromptLengthError

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

PHOTO_TEMPLATES = ("a photo of a {}.",)
"""The one template CLIP's authors name as the default, and CoOp starts from."""

TEMPLATE_POOL = ("a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "{}")
"""Candidates for a backbone that was trained on few words: those it knows are averaged."""


def default_templates(backbone: Backbone) -> tuple[str, ...]:
    """Return the templates that suit a backbone: those whose words it was trained on, or the usual single one."""
    trained = backbone.trained_token_ids
    if trained is None:
        return PHOTO_TEMPLATES
    known = tuple(
        one for one in TEMPLATE_POOL if not backbone.tokenizer.unseen_words(one.replace("{}", " ").strip(), trained)
    )
    return known or ("{}",)


def template_features(backbone: Backbone, classes: Sequence[ClassPrompt], templates: Sequence[str]) -> Tensor:
    """Return (K, d) unit-norm text features, averaged over templates and the phrasings of a class.

    Args:
        backbone: The frozen towers.
        classes: K classes.
        templates: Each with one `{}` where the name goes.

    Raises:
        PromptLengthError: A filled-in template is longer than the text tower; every class it happens to is named.
    """
    _refuse_long(backbone, classes, templates)
    texts: list[str] = []
    owner: list[int] = []
    for index, one in enumerate(classes):
        for phrasing in one.phrasings:
            texts.extend(template.replace("{}", phrasing) for template in templates)
            owner.extend([index] * len(templates))
    features = backbone.encode_texts(texts)
    index_tensor = torch.tensor(owner, device=features.device)
    sums = features.new_zeros(len(classes), features.shape[1]).index_add_(0, index_tensor, features)
    return F.normalize(sums, dim=-1)


def _refuse_long(backbone: Backbone, classes: Sequence[ClassPrompt], templates: Sequence[str]) -> None:
    tokenizer, limit = backbone.tokenizer, backbone.context_length
    around = 1 if tokenizer.sos_id is None else 2  # start, where there is one, and end
    faults: list[Fault] = []
    for one in classes:
        texts = [template.replace("{}", phrasing) for phrasing in one.phrasings for template in templates]
        lengths = [around + len(tokenizer.encode(text)) for text in texts]
        if max(lengths) > limit:
            text = texts[lengths.index(max(lengths))]
            said = f"{text[:80]!r} needs {max(lengths)} tokens, {max(lengths) - limit} more than the {limit} there are"
            faults.append(Fault(one.label, said))
    if faults:
        raise PromptLengthError(
            f"{len(faults)} class(es) are too long for the hand-written prompt on backbone {backbone.name!r}; first, "
            f"class {faults[0].path!r}: {faults[0].message}. Shorten the names.",
            faults,
        )
